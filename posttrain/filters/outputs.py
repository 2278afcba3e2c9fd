"""The last task of a run: decide about each document, and write kept, rejected and quarantine Parquet, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import feather

from posttrain.filters.pieces import Pieces
from posttrain.filters.plan import Plan
from posttrain.filters.rules import arrays, passing, reasons
from posttrain.filters.shard import DOCUMENT, MEASURED, QUARANTINE
from posttrain.filters.summary import Summary
from posttrain.runtime.writing import replacing
from posttrain.text.copies import Records
from posttrain.text.kernels.text import Places
from schemas.filter_rules import FilterRules

_ANNOTATED = DOCUMENT | MEASURED | {"text": pa.string()}
OUTPUTS = {
    "kept": pa.schema(_ANNOTATED | {"split": pa.string()}),
    "rejected": pa.schema(_ANNOTATED | {"reasons": pa.list_(pa.string()), "duplicate_of": pa.string(), "jaccard": pa.float64()}),
    "quarantine": QUARANTINE,
}
"""Columns of kept.parquet, rejected.parquet and quarantine.parquet."""
FEW_VALUES = ["source", "split", "file"]
"""Columns that a dictionary makes smaller. Texts, identifiers and metrics are nearly all different: to try costs time."""
DUPLICATE, NEAR = "duplicate", "near_duplicate"
"""Reasons that are no rule on a document alone."""


def write_documents(plan: Plan, copies: Records, near: Records, summary: Summary, out: Path) -> None:
    """Write kept.parquet and rejected.parquet.

    Args:
        copies, near: documents that are repeated, `dedup.COPY`, sorted by number.
        summary: is told each batch.
    """
    rules, pieces = plan.filtering.resolved(), Pieces(plan)
    with ExitStack() as stack:
        keep, reject = (stack.enter_context(_parquet(out, name)) for name in ("kept", "rejected"))
        for table in pieces.tables():
            kept, rejected = judged(pl.DataFrame(table), rules, copies, near, pieces.ids)
            rejected = rejected.with_columns(text=pl.coalesce("original", "text"))
            summary.add(kept, rejected)
            keep(kept)
            reject(rejected)


def write_quarantine(plan: Plan, out: Path) -> None:
    """Write quarantine.parquet from what the files that were read so far have left."""
    with _parquet(out, "quarantine") as write:
        for number in range(len(plan.files)):
            if (path := plan.piece("quarantine", number, "arrow")).exists():
                write(pl.DataFrame(feather.read_table(path)))


@contextmanager
def _parquet(out: Path, name: str) -> Iterator[Any]:
    schema = OUTPUTS[name]
    with replacing(out / f"{name}.parquet") as scratch, pq.ParquetWriter(scratch, schema, use_dictionary=FEW_VALUES) as writer:
        yield lambda table: writer.write_table(table.select(schema.names).to_arrow().cast(schema)) if table.height else None


def judged(
    documents: pl.DataFrame, rules: FilterRules, copies: Records, near: Records, ids: Callable[[Places], list[str]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents that are kept, and the others with all reasons against them and which kept document they repeat.

    Args:
        documents: number, metrics, lines_dropped.
        ids: the identifiers of some documents by number.

    Returns:
        The second has the columns `reasons`, `duplicate_of` and `jaccard` besides.
    """
    numbers = documents["number"].to_numpy()
    exact, close = _looked_up(numbers, copies), _looked_up(numbers, near)
    keep = passing(arrays(documents), rules) & ~exact.found & ~close.found
    rejected = documents.filter(~keep)
    exact, close = exact.only(~keep), close.only(~keep)
    of = np.where(exact.found, exact.of, close.of)
    repeated = exact.found | close.found
    wanted = np.unique(of[repeated])
    names = dict(zip(wanted.tolist(), ids(wanted), strict=True))
    of_names = [names[number] if yes else None for number, yes in zip(of.tolist(), repeated.tolist(), strict=True)]
    more = pl.DataFrame({DUPLICATE: exact.found, NEAR: close.found})
    told = more.select(pl.when(pl.col(name)).then(pl.lit(name)).alias(name) for name in more.columns)
    return documents.filter(keep), rejected.with_columns(
        told.select(reasons=pl.concat_list(reasons(rejected, rules), *told.columns).list.drop_nulls())["reasons"],
        duplicate_of=pl.Series(of_names, dtype=pl.String),
        jaccard=pl.Series(np.where(close.found, close.jaccard, np.nan)).fill_nan(None),
    )


class _Found(NamedTuple):
    """For each document: whether it repeats another, the number of that, and their Jaccard index."""

    found: NDArray[np.bool_]
    of: Places
    jaccard: NDArray[np.float64]

    def only(self, some: NDArray[np.bool_]) -> _Found:
        return _Found(self.found[some], self.of[some], self.jaccard[some])


def _looked_up(numbers: Places, repeated: Records) -> _Found:
    if not len(repeated):
        nothing = np.zeros(len(numbers))
        return _Found(nothing.astype(bool), nothing.astype(np.int64), nothing)
    places = np.minimum(np.searchsorted(repeated["number"], numbers), len(repeated) - 1)
    there = repeated[places]
    return _Found(there["number"] == numbers, there["of"], there["jaccard"])
