"""The one place that decides: metrics against the rules of the recipe, with every reason kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from schemas.filter_rules import FilterRules

EMPTY = "no line left"
DROPPED = "lines_dropped"


class Told(NamedTuple):
    """A reason, and the documents that it is against."""

    against: NDArray[np.bool_]
    """Shape (documents,)."""
    reason: str | pl.Series
    """One for all of them, or one for each document."""


def broken(metrics: Mapping[str, NDArray[Any]], rules: FilterRules) -> list[Told]:
    """Every rule that is on, in the order of the fields, with the documents that break it, such as ``words < 50``.

    A rule or side that is None is off; 0 is a limit like any other. Limits are inclusive. A document whose lines were all taken
    out has a reason too.

    Args:
        metrics: by name, each of shape (documents,), and `lines_dropped` where there are rules for lines.
    """
    found = []
    for name, bounds in rules:
        if bounds is not None and bounds.min is not None:
            found.append(Told(metrics[name] < bounds.min, f"{name} < {shown(bounds.min)}"))
        if bounds is not None and bounds.max is not None:
            found.append(Told(metrics[name] > bounds.max, f"{name} > {shown(bounds.max)}"))
    if DROPPED in metrics:
        found.append(Told((metrics["words"] == 0) & (metrics[DROPPED] > 0), EMPTY))
    return found


def reasons(told: Sequence[Told], documents: int) -> pl.Series:
    """All reasons against each of so many documents in their order, list[str]; an empty list where there are none."""
    if not told:
        return pl.Series("reasons", [[]] * documents, dtype=pl.List(pl.String))
    against = np.column_stack([each.against for each in told])
    document, which = np.nonzero(against)  # documents one after the other
    own = np.array([isinstance(each.reason, pl.Series) for each in told])
    texts = [each.reason if isinstance(each.reason, pl.Series) else pl.Series([each.reason]) for each in told]
    first = np.cumsum([0, *map(len, texts[:-1])])
    said = pl.concat(texts).gather(first[which] + own[which] * document).to_arrow()
    ends = np.concatenate([[0], np.cumsum(against.sum(axis=1))])
    return pl.Series("reasons", pa.LargeListArray.from_arrays(ends, said))


def passing(metrics: Mapping[str, NDArray[Any]], rules: FilterRules) -> NDArray[np.bool_]:
    """Which documents have no reason against them, shape (documents,); many times as fast as to say the reasons."""
    passes = np.ones(len(metrics["words"]), bool)
    for name, bounds in rules:
        if bounds is not None and bounds.min is not None:
            passes &= metrics[name] >= bounds.min
        if bounds is not None and bounds.max is not None:
            passes &= metrics[name] <= bounds.max
    if DROPPED in metrics:
        passes &= (metrics["words"] > 0) | (metrics[DROPPED] == 0)
    return passes


def arrays(metrics: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """The columns of metrics as `passing` takes them."""
    return {name: metrics[name].to_numpy() for name in metrics.columns if name == DROPPED or metrics[name].dtype == pl.Float64}


def shown(limit: float) -> str:
    """A limit as a person would write it: 50, not 50.0."""
    return str(int(limit)) if limit.is_integer() else repr(limit)
