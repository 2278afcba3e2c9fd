"""What a person should see of a finished run: documents next to limits, clusters of near-duplicates, counts by group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

from schemas.filter_rules import FilterRules

EXCERPT: Final = 400  # characters of a text that are shown
EACH_SIDE: Final = 2  # documents on either side of a limit
CLUSTERS, MEMBERS = 6, 3
GROUPS: Final = {"source": "Source", "language": "Language"}
GROUPS_SHOWN: Final = 40
TABLES: Final = ("kept", "rejected")

Row = dict[str, Any]


@dataclass(frozen=True)
class Borderline:
    """The documents next to one limit."""

    rule: str
    """Such as `words ≥ 50`."""
    inside: list[Row]
    outside: list[Row]


@dataclass(frozen=True)
class Cluster:
    """A kept document and some of those that repeat it."""

    kept: Row
    members: list[Row]
    size: int
    """Documents that were removed for it."""


@dataclass(frozen=True)
class Group:
    """Documents of one source or language."""

    name: str
    kept: int
    rejected: int
    characters: int
    """Of the kept ones."""


def borderline(folder: Path, rules: FilterRules) -> list[Borderline]:
    """For each limit the documents that come closest to it on either side, with an excerpt."""
    documents, found = _scan(folder), []
    for name, bounds in rules:
        for sign, limit in (("≥", bounds.min), ("≤", bounds.max)) if bounds else ():
            if limit is not None:
                passes = pl.col(name) >= limit if sign == "≥" else pl.col(name) <= limit
                inside, outside = (_closest(documents.filter(some), name, limit) for some in (passes, ~passes))
                if outside.height:
                    found.append((f"{name} {sign} {limit:g}", inside, outside))
    texts = _excerpts(documents, (side["number"].to_list() for _, *both in found for side in both))
    return [Borderline(rule, *([_shown(row, texts) for row in side.to_dicts()] for side in both)) for rule, *both in found]


def _closest(documents: pl.LazyFrame, metric: str, limit: float) -> pl.DataFrame:
    some = documents.select("number", "id", value=pl.col(metric), gap=(pl.col(metric) - limit).abs())
    return some.sort("gap", "number").head(EACH_SIDE).collect(engine="streaming")


def clusters(folder: Path) -> list[Cluster]:
    """The largest clusters of near-duplicates: the kept document, and those unlike it most."""
    near = pl.scan_parquet(folder / "rejected.parquet", glob=False).filter(pl.col("jaccard") < 1)
    sizes = near.group_by("duplicate_of").len().sort("len", "duplicate_of", descending=[True, False]).head(CLUSTERS).collect()
    wanted = sizes["duplicate_of"]
    alike = near.filter(pl.col("duplicate_of").is_in(wanted.implode())).sort("jaccard", "number")
    some = alike.group_by("duplicate_of", maintain_order=True).head(MEMBERS)
    members = some.select("duplicate_of", "number", "id", value="jaccard").collect()
    documents = _scan(folder)
    named = documents.filter(pl.col("id").is_in(wanted.implode())).select("number", "id")
    kept = named.sort("number").unique("id", keep="first").collect()
    texts = _excerpts(documents, [kept["number"].to_list(), members["number"].to_list()])
    heads = {row["id"]: _shown(row, texts) for row in kept.to_dicts()}
    return [
        Cluster(heads[of], [_shown(row, texts) for row in members.filter(duplicate_of=of).to_dicts()], size)
        for of, size in sizes.iter_rows()
        if of in heads
    ]


def groups(folder: Path) -> dict[str, list[Group]]:
    """Counts by source, and by language where the run has told it; the largest groups first."""
    known = set(pq.read_schema(folder / "kept.parquet").names) & set(pq.read_schema(folder / "rejected.parquet").names)
    return {title: _counted(folder, column) for column, title in GROUPS.items() if column in known}


def _counted(folder: Path, column: str) -> list[Group]:
    counts = []
    for table in TABLES:
        rows = pl.scan_parquet(folder / f"{table}.parquet", glob=False).select(column, size=pl.col("text").str.len_chars())
        counted = rows.group_by(column).agg(pl.len().alias(table), pl.col("size").sum().alias(f"{table}_characters"))
        counts.append(counted.collect(engine="streaming"))
    both = counts[0].join(counts[1], on=column, how="full", coalesce=True, nulls_equal=True).fill_null(0)
    ordered = both.sort(pl.col("kept") + pl.col("rejected"), column, descending=[True, False]).head(GROUPS_SHOWN)
    columns = [column, "kept", "rejected", "kept_characters"]
    return [Group(str(name), *numbers) for name, *numbers in ordered.select(columns).iter_rows()]


def _scan(folder: Path) -> pl.LazyFrame:
    """The columns that both tables have."""
    frames = [pl.scan_parquet(folder / f"{table}.parquet", glob=False) for table in TABLES]
    return pl.concat([frame.drop("reasons", "duplicate_of", "jaccard", "split", "phase", strict=False) for frame in frames])


def _excerpts(documents: pl.LazyFrame, numbers: Iterable[list[int]]) -> dict[int, str]:
    wanted = pl.Series(sorted({number for some in numbers for number in some}), dtype=pl.Int64)
    found = documents.filter(pl.col("number").is_in(wanted.implode())).select("number", pl.col("text").str.slice(0, EXCERPT))
    return dict(found.collect(engine="streaming").iter_rows())


def _shown(row: Row, texts: dict[int, str]) -> Row:
    return {"id": row["id"], "value": row.get("value"), "text": texts[row["number"]]}
