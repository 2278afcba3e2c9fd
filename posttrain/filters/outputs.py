"""The last task of a run: decide about each document, and write kept, rejected and quarantine Parquet, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import feather

from posttrain.filters import score_rules
from posttrain.filters.mixture import SURPLUS, Sampler
from posttrain.filters.pieces import Pieces
from posttrain.filters.plan import Plan
from posttrain.filters.rules import Told, arrays, broken, passing, reasons
from posttrain.filters.shard import DOCUMENT, MEASURED, QUARANTINE
from posttrain.filters.steps import Repeated
from posttrain.filters.summary import Summary
from posttrain.runtime.arrow_memory import trimmed
from posttrain.runtime.writing import replacing
from posttrain.text.copies import Records
from posttrain.text.kernels.text import Places
from schemas.filtering import Filtering

_ANNOTATED = DOCUMENT | MEASURED | {"divergence": pa.float64(), "text": pa.string()}
OUTPUTS = {
    "kept": pa.schema(_ANNOTATED | {"split": pa.string(), "phase": pa.string()}),
    "rejected": pa.schema(_ANNOTATED | {"reasons": pa.list_(pa.string()), "duplicate_of": pa.string(), "jaccard": pa.float64()}),
    "quarantine": QUARANTINE,
}
"""Columns of kept.parquet, rejected.parquet and quarantine.parquet."""
FEW_VALUES = ["source", "split", "file"]
"""Columns that a dictionary makes smaller. Texts, identifiers and metrics are nearly all different: to try costs time."""
TRIM = 8  # tables of 16 MB of text
DUPLICATE, NEAR, URL = "duplicate", "near_duplicate", "duplicate_url"
"""Reasons that are no rule on a document alone."""


Ids = Callable[[Places], list[str]]
"""The identifiers of some documents by number."""
Write = Callable[[pl.DataFrame, pa.ChunkedArray | None], None]
"""Writes some documents, and their texts where the table has these."""


class Decisions(NamedTuple):
    """All that decides about a document."""

    filtering: Filtering
    repeated: Repeated
    sampler: Sampler | None
    """Told of all documents that pass everything else."""


def write_documents(plan: Plan, repeated: Repeated, summary: Summary, out: Path, threads: bool = False) -> None:
    """Write kept.parquet and rejected.parquet.

    Args:
        repeated: documents that are repeated, or unlike the corpus.
        summary: is told each batch.
        threads: whether each table is written by one of its own, while this one decides about the next documents.

    Raises:
        Refusal: when the mixture asks for documents that are not there.
    """
    pieces = Pieces(plan)
    decisions = decided(plan.filtering, repeated, (pl.DataFrame(table.drop(["text", "original"])) for table in pieces.tables()))
    with ExitStack() as stack:
        keep, reject = (stack.enter_context(_parquet(out, name, threads)) for name in ("kept", "rejected"))
        for table in trimmed(pieces.tables(), TRIM):
            # Texts stay in Arrow: polars would copy them to filter them, and again to give them back.
            passes, kept, rejected = judged(pl.DataFrame(table.drop(["text", "original"])), decisions, pieces.ids)
            mask = pa.array(passes)
            texts, others = table["text"].filter(mask), table.select(["original", "text"]).filter(pc.invert(mask))
            summary.add(kept, rejected, pc.sum(pc.utf8_length(texts), min_count=0).as_py())
            keep(kept, texts)
            reject(rejected, pc.coalesce(others["original"], others["text"]))
    summary.sampler = decisions.sampler


def write_quarantine(plan: Plan, out: Path) -> None:
    """Write quarantine.parquet from what the files that were read so far have left."""
    with _parquet(out, "quarantine") as write:
        for number in range(len(plan.files)):
            if (path := plan.piece("quarantine", number, "arrow")).exists():
                write(pl.DataFrame(feather.read_table(path)), None)


@contextmanager
def _parquet(out: Path, name: str, thread: bool = False) -> Iterator[Write]:
    schema = OUTPUTS[name]
    with replacing(out / f"{name}.parquet") as scratch, pq.ParquetWriter(scratch, schema, use_dictionary=FEW_VALUES) as writer:

        def write(frame: pl.DataFrame, texts: pa.ChunkedArray | None) -> None:
            if frame.height:
                table = frame.to_arrow()
                whole = table if texts is None else table.append_column("text", texts)
                writer.write_table(whole.select(schema.names).cast(schema))

        with _elsewhere(write) if thread else nullcontext(write) as given:
            yield given


@contextmanager
def _elsewhere(write: Write) -> Iterator[Write]:
    """The same, called by a thread of its own, in order; what waits for it is one batch."""
    with ThreadPoolExecutor(1) as pool:
        pending: list[Future[None]] = []

        def later(frame: pl.DataFrame, texts: pa.ChunkedArray | None) -> None:
            pending.append(pool.submit(write, frame, texts))
            if len(pending) > 1:
                pending.pop(0).result()

        yield later
        for each in pending:
            each.result()


def decided(filtering: Filtering, repeated: Repeated, documents: Iterable[pl.DataFrame]) -> Decisions:
    """All that decides about a document. For a mixture all documents are looked at first: number, metrics, scores.

    Raises:
        Refusal: when the mixture asks for documents that are not there.
    """
    if filtering.mixture is None:
        return Decisions(filtering, repeated, None)
    decisions = Decisions(filtering, repeated, Sampler(filtering.mixture))
    for some in documents:
        decisions.sampler.add(some.filter(_passing(some, decisions)))  # type: ignore[union-attr]
    decisions.sampler.settle()  # type: ignore[union-attr]
    return decisions


class Judged(NamedTuple):
    """A batch of documents after the decision."""

    keep: NDArray[np.bool_]
    """Which are kept, shape (documents,)."""
    kept: pl.DataFrame
    """Their rows, with the columns `divergence` and `phase`."""
    rejected: pl.DataFrame
    """The others', with `divergence`, `reasons`, `duplicate_of` and `jaccard`."""


def judged(documents: pl.DataFrame, decisions: Decisions, ids: Callable[[Places], list[str]]) -> Judged:
    """Decide about some documents, with all reasons against those that are not kept, and which kept document they repeat.

    Args:
        documents: number, metrics, lines_dropped, scores.
        ids: the identifiers of some documents by number.
    """
    documents = _with_divergence(documents, decisions.repeated)
    passes = _passing(documents, decisions)
    documents = documents.with_columns(
        phase=decisions.sampler.phases(documents) if decisions.sampler else pl.lit(None, pl.String)
    )
    keep = passes & (documents["phase"].is_not_null().to_numpy() if decisions.sampler else True)
    rejected, lost = documents.filter(~keep), passes[~keep]
    older, exact, close = (_looked_up(rejected["number"].to_numpy(), each) for each in decisions.repeated[:3])
    of = np.where(exact.found, exact.of, np.where(close.found, close.of, older.of))
    repeats = exact.found | close.found | older.found
    wanted = np.unique(of[repeats])
    names = dict(zip(wanted.tolist(), ids(wanted), strict=True))
    of_names = [names[number] if yes else None for number, yes in zip(of.tolist(), repeats.tolist(), strict=True)]
    flags = {DUPLICATE: exact.found, NEAR: close.found, URL: older.found, SURPLUS: lost}
    told = rejected.with_columns(
        _reasons(rejected, decisions, flags),
        duplicate_of=pl.Series(of_names, dtype=pl.String),
        jaccard=pl.Series(np.where(close.found, close.jaccard, np.nan)).fill_nan(None),
    )
    return Judged(keep, documents.filter(keep), told)


def _passing(documents: pl.DataFrame, decisions: Decisions) -> NDArray[np.bool_]:
    """Which documents nothing but the mixture is against."""
    documents = _with_divergence(documents, decisions.repeated)
    passes = passing(arrays(documents), decisions.filtering.resolved())
    passes &= score_rules.passing(documents, decisions.filtering).to_numpy()
    for records in decisions.repeated[:3]:
        passes &= ~_looked_up(documents["number"].to_numpy(), records).found
    if decisions.filtering.divergence:
        passes &= documents["divergence"].to_numpy() <= decisions.repeated.limit
    return passes


def _reasons(rejected: pl.DataFrame, decisions: Decisions, flags: Mapping[str, NDArray[np.bool_]]) -> pl.Series:
    told = broken(arrays(rejected), decisions.filtering.resolved()) + score_rules.broken(rejected, decisions.filtering)
    if decisions.filtering.divergence:
        limit = decisions.repeated.limit
        told.append(Told(rejected["divergence"].to_numpy() > limit, f"divergence > {limit:.4f}"))
    return reasons([*told, *(Told(against, name) for name, against in flags.items())], rejected.height)


def _with_divergence(documents: pl.DataFrame, repeated: Repeated) -> pl.DataFrame:
    if "divergence" in documents.columns:
        return documents
    values = repeated.divergence
    if not len(values):
        return documents.with_columns(divergence=pl.lit(None, pl.Float64))
    places = np.searchsorted(values["number"], documents["number"].to_numpy())
    return documents.with_columns(divergence=pl.Series(values["value"][places]))


class _Found(NamedTuple):
    """For each document: whether it repeats another, the number of that, and their Jaccard index."""

    found: NDArray[np.bool_]
    of: Places
    jaccard: NDArray[np.float64]


def _looked_up(numbers: Places, repeated: Records) -> _Found:
    if not len(repeated):
        nothing = np.zeros(len(numbers))
        return _Found(nothing.astype(bool), nothing.astype(np.int64), nothing)
    places = np.minimum(np.searchsorted(repeated["number"], numbers), len(repeated) - 1)
    there = repeated[places]
    return _Found(there["number"] == numbers, there["of"], there["jaccard"])
