"""How much of each source is used: rows in the proportion of the sources' weights, the same ones in every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import xxhash

from posttrain.data.sources import SourceFile

SEED: Final = 2  # of the hash: which rows are drawn has nothing to do with which are held out (`split`) or measured (`choose`)


@dataclass(frozen=True)
class Mixture:
    """A table whose sources have their shares."""

    table: pl.DataFrame
    left_out: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    """Empty without weights; else how many rows of each source there were and are."""


def mix(table: pl.DataFrame, files: Sequence[SourceFile]) -> Mixture:
    """As many rows as the weights allow without a row coming twice: all of the source that is scarcest for its weight.

    The splits are mixed each for itself. Of a source the rows with the smallest hashes of file and number are drawn, so that a
    smaller share is a part of a larger one.

    Args:
        table: clean rows with `source` (the name of a file), `row` and `split`.
        files: the files of the data set, with the group and the weight of each.
    """
    weights = {file.group: file.weight for file in files if file.weight is not None}
    if not weights:
        return Mixture(table)
    names = {file.name: file.group for file in files}
    groups = table["source"].replace_strict(names, return_dtype=pl.Int64)
    marked = table.with_columns(_group=groups, _draw=_draws(table), _at=pl.int_range(pl.len()))
    kept = pl.concat([marked.head(0), *(_drawn(split, weights) for split in marked.partition_by("split"))]).sort("_at")
    return Mixture(
        kept.drop("_group", "_draw", "_at"),
        table.height - kept.height,
        {"left_out_by_weight": table.height - kept.height, "mixture": _counts(files, groups, kept["_group"])},
    )


def _draws(table: pl.DataFrame) -> pl.Series:
    places = zip(table["source"], table["row"], strict=True)
    return pl.Series([xxhash.xxh3_64_intdigest(f"{source}:{row}".encode(), SEED) for source, row in places], dtype=pl.UInt64)


def _drawn(rows: pl.DataFrame, weights: dict[int, float]) -> pl.DataFrame:
    """Of each group its share. A group that has no row in this split takes none from the others."""
    sizes = dict(rows["_group"].value_counts().iter_rows())
    scarcest = min(size / weights[group] for group, size in sizes.items())
    shares = {group: max(1, int(scarcest * weights[group] + 1e-9)) for group in sizes}
    return pl.concat([part.sort("_draw").head(shares[part["_group"][0]]) for part in rows.partition_by("_group")])


def _counts(files: Sequence[SourceFile], before: pl.Series, after: pl.Series) -> list[dict[str, Any]]:
    first = {file.group: file for file in reversed(files)}
    return [
        {
            "source": file.name.split("/")[0],
            "weight": file.weight,
            "rows": int((before == group).sum()),
            "used": int((after == group).sum()),
        }
        for group, file in sorted(first.items())
    ]
