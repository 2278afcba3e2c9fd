"""The one place that decides: metrics against the rules of the recipe, with every reason kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.filter_rules import Bounds, FilterRules

EMPTY = "no line left"
DROPPED = "lines_dropped"


def reasons(metrics: pl.DataFrame, rules: FilterRules) -> pl.Series:
    """Every rule that each document breaks, such as ``words < 50``; an empty list where it breaks none.

    A rule or side that is None is off; 0 is a limit like any other. Limits are inclusive. A document whose lines were all taken
    out has a reason too.

    Args:
        metrics: shape (documents, metrics), as `posttrain.filters.metrics.annotate` returns them, and `lines_dropped` where there
            are rules for lines.

    Returns:
        Series of list[str], shape (documents,), reasons in the order of the rules.
    """
    broken = [
        pl.when(beyond).then(pl.lit(f"{name} {sign} {shown(limit)}"))
        for name, bounds in rules
        if bounds is not None
        for sign, limit, beyond in _sides(name, bounds)
    ]
    if DROPPED in metrics.columns:
        broken.append(pl.when((pl.col("words") == 0) & (pl.col(DROPPED) > 0)).then(pl.lit(EMPTY)))
    if not broken:
        return pl.Series("reasons", [[]] * metrics.height, dtype=pl.List(pl.String))
    return metrics.select(reasons=pl.concat_list(broken).list.drop_nulls()).to_series()


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


def _sides(name: str, bounds: Bounds) -> Iterator[tuple[str, float, pl.Expr]]:
    """Sign, limit and test of each side that is on."""
    if bounds.min is not None:
        yield "<", bounds.min, pl.col(name) < bounds.min
    if bounds.max is not None:
        yield ">", bounds.max, pl.col(name) > bounds.max


def shown(limit: float) -> str:
    """A limit as a person would write it: 50, not 50.0."""
    return str(int(limit)) if limit.is_integer() else repr(limit)
