"""The last task of a run: decide about each document, and write kept, rejected and quarantine Parquet, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import feather

from posttrain.data.split import holdout_mask
from posttrain.filters.dedup import Records
from posttrain.filters.kernels.text import Places
from posttrain.filters.pieces import Pieces
from posttrain.filters.plan import Plan
from posttrain.filters.rules import reasons
from posttrain.filters.shard import DOCUMENT, MEASURED, QUARANTINE
from posttrain.filters.summary import Summary
from posttrain.runtime.writing import replacing
from schemas.filter_rules import FilterRules

_ANNOTATED = DOCUMENT | MEASURED | {"text": pa.string()}
OUTPUTS = {
    "kept": pa.schema(_ANNOTATED | {"split": pa.string()}),
    "rejected": pa.schema(_ANNOTATED | {"reasons": pa.list_(pa.string()), "duplicate_of": pa.string(), "jaccard": pa.float64()}),
    "quarantine": QUARANTINE,
}
"""Columns of kept.parquet, rejected.parquet and quarantine.parquet."""
DUPLICATE, NEAR = "duplicate", "near_duplicate"
"""Reasons that are no rule on a document alone."""


def write_documents(plan: Plan, copies: Records, near: Records, holdout: float, summary: Summary, out: Path) -> None:
    """Write kept.parquet and rejected.parquet.

    Args:
        copies, near: documents that are repeated, `dedup.COPY`, sorted by number.
        holdout: share of the kept documents whose split is "holdout".
        summary: is told each batch.
    """
    rules, pieces = plan.filtering.resolved(), Pieces(plan)
    with ExitStack() as stack:
        kept, rejected = (stack.enter_context(_parquet(out, name)) for name in ("kept", "rejected"))
        for table in pieces.tables():
            documents = pl.DataFrame(table)
            decided = documents.with_columns(decisions(documents, rules, copies, near, pieces.ids))
            keep = decided["reasons"].list.len() == 0
            good, bad = decided.filter(keep), decided.filter(~keep)
            good = good.with_columns(split=_split(good["text"], holdout))
            bad = bad.with_columns(text=pl.coalesce("original", "text"))
            summary.add(good, bad)
            kept(good)
            rejected(bad)


def write_quarantine(plan: Plan, out: Path) -> None:
    """Write quarantine.parquet from what the files that were read so far have left."""
    with _parquet(out, "quarantine") as write:
        for number in range(len(plan.files)):
            if (path := plan.piece("quarantine", number, "arrow")).exists():
                write(pl.DataFrame(feather.read_table(path)))


@contextmanager
def _parquet(out: Path, name: str) -> Iterator[Any]:
    schema = OUTPUTS[name]
    with replacing(out / f"{name}.parquet") as scratch, pq.ParquetWriter(scratch, schema) as writer:
        yield lambda table: writer.write_table(table.select(schema.names).to_arrow().cast(schema)) if table.height else None


def decisions(
    documents: pl.DataFrame, rules: FilterRules, copies: Records, near: Records, ids: Callable[[Places], list[str]]
) -> pl.DataFrame:
    """All reasons against each document, and which kept one it repeats.

    Args:
        documents: number, metrics, lines_dropped.
        ids: the identifiers of some documents by number.

    Returns:
        Columns `reasons`, `duplicate_of` and `jaccard`.
    """
    numbers = documents["number"].to_numpy()
    exact, of_exact, _ = _looked_up(numbers, copies)
    close, of_near, jaccard = _looked_up(numbers, near)
    of = np.where(exact, of_exact, of_near)
    repeated = exact | close
    wanted = np.unique(of[repeated])
    names = dict(zip(wanted.tolist(), ids(wanted), strict=True))
    more = pl.DataFrame({DUPLICATE: exact, NEAR: close})
    kept = [names[number] if yes else None for number, yes in zip(of.tolist(), repeated.tolist(), strict=True)]
    told = [pl.when(pl.col(name)).then(pl.lit(name)) for name in more.columns]
    found = more.select(more=pl.concat_list(told).list.drop_nulls()).with_columns(rules=reasons(documents, rules))
    return found.select(
        reasons=pl.concat_list("rules", "more"),
        duplicate_of=pl.Series(kept, dtype=pl.String),
        jaccard=pl.Series(np.where(close, jaccard, np.nan)).fill_nan(None),
    )


def _looked_up(numbers: Places, repeated: Records) -> tuple[NDArray[np.bool_], Places, NDArray[np.float64]]:
    """For each document: whether it is repeated, of which one, and their Jaccard index."""
    if not len(repeated):
        nothing = np.zeros(len(numbers))
        return nothing.astype(bool), nothing.astype(np.int64), nothing
    places = np.minimum(np.searchsorted(repeated["number"], numbers), len(repeated) - 1)
    found = repeated[places]
    return found["number"] == numbers, found["of"], found["jaccard"]


def _split(texts: pl.Series, holdout: float) -> pl.Series:
    held_out = holdout_mask(texts, holdout)
    return held_out.replace_strict({True: "holdout", False: "train"}, return_dtype=pl.String)
