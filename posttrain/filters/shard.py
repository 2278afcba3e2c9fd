"""The first task of a run: read one file, and write its documents with their metrics, fingerprints and band hashes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from posttrain.data.split import held_out, holdout_mask
from posttrain.filters.documents import Batch, Progress, batches, checked
from posttrain.filters.kernels.lines import REASONS
from posttrain.filters.metrics import METRICS, measured, without_lines
from posttrain.filters.plan import FILE_BITS, Plan, save
from posttrain.filters.rules import DROPPED, passing
from posttrain.runtime.writing import replacing, write_atomically
from posttrain.text.buffers import Buffers, arrow, buffers
from posttrain.text.copies import KEY, Records, fingerprints, keys
from posttrain.text.kernels.folding import fold
from posttrain.text.near import BAND, band_hashes, band_records

T = TypeVar("T")
R = TypeVar("R")

DOCUMENT = {"id": pa.string(), "text": pa.large_string(), "source": pa.string(), "row": pa.int64()}
MEASURED = {
    **dict.fromkeys(METRICS, pa.float64()),
    "lines_dropped": pa.int64(),
    "number": pa.int64(),
    "fingerprint": pa.binary(16),
    "bands": pa.list_(pa.uint64()),
}
ANNOTATED = pa.schema(DOCUMENT | MEASURED | {"split": pa.string(), "original": pa.large_string()})
"""`split` is for kept documents; `original` is the text before lines were dropped, where any were."""
QUARANTINE = pa.schema({"file": pa.string(), "row": pa.int64(), "reason": pa.string(), "value": pa.string()})


class Annotated(NamedTuple):
    """What comes of a batch."""

    documents: pa.Table
    quarantine: pa.Table
    keys: Records
    bands: Records
    dropped: NDArray[np.int64]
    """Lines that were taken out, by rule."""


def annotate_file(plan: Plan, number: int, on_batch: Progress = lambda documents: None) -> dict[str, Any]:
    """Write the pieces of a file; returns its counts: documents, quarantined, dropped (lines by rule).

    Raises:
        Refusal: when the file has no column of texts, or is cut off. Its rows that cannot be read are kept even so.
    """
    done = plan.piece("done", number, "json")
    if not done.exists():
        counts = _annotate(plan, number, on_batch)
        write_atomically(done, json.dumps(counts))
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def _annotate(plan: Plan, number: int, on_batch: Progress) -> dict[str, Any]:
    keys_of, bands_of = [np.empty(0, KEY)], [np.empty(0, BAND)]
    bad: list[pa.Table] = []
    dropped = np.zeros(len(REASONS), np.int64)
    try:
        with _documents(plan.piece("documents", number, "arrow")) as writer:
            for part in _ahead(lambda batch: annotated(batch, plan, number), batches(plan.files[number]), plan.threads):
                writer.write_table(part.documents)
                bad.append(part.quarantine)
                keys_of.append(part.keys)
                bands_of.append(part.bands)
                dropped += part.dropped
                on_batch(len(part.documents) + len(part.quarantine))
    finally:
        feather.write_feather(pa.concat_tables([QUARANTINE.empty_table(), *bad]), plan.piece("quarantine", number, "arrow"))
    save(plan.piece("keys", number), lambda: np.sort(np.concatenate(keys_of), order=["high", "low", "number"]))
    save(plan.piece("bands", number), lambda: np.sort(np.concatenate(bands_of), order=["hash", "number"]))
    lines = dict(zip(REASONS, dropped.tolist(), strict=True))
    return {"documents": sum(map(len, keys_of)), "quarantined": sum(map(len, bad)), "dropped": lines}


def annotated(batch: Batch, plan: Plan, file: int) -> Annotated:
    """Check a batch, take lines out, measure, and fold."""
    documents, quarantine = checked(batch, plan.files[file].name)
    original = buffers(documents["text"].to_arrow(compat_level=pl.CompatLevel.oldest()))
    texts, dropped = without_lines(original, plan.filtering.resolved_lines())
    lines = dropped.sum(axis=1)
    metrics = {**dict(zip(METRICS, np.ascontiguousarray(measured(texts).T), strict=True)), DROPPED: lines}
    numbers = documents["row"].to_numpy() + (file << FILE_BITS)
    passes = passing(metrics, plan.filtering.resolved())
    folded = fold(texts.data, texts.offsets)
    forms = folded.texts()
    prints = fingerprints(forms)
    hashes = band_hashes(folded, *plan.bands) if plan.bands else None
    columns = {
        "id": documents["id"].to_arrow(),
        "text": arrow(texts),
        "source": documents["source"].to_arrow(),
        "row": documents["row"].to_arrow(),
        **{name: pa.array(values) for name, values in metrics.items()},
        "number": pa.array(numbers),
        "fingerprint": pa.array(prints, pa.binary(16)),
        "bands": pa.nulls(len(prints), pa.list_(pa.uint64())) if hashes is None else _lists(hashes),
        "split": _split(texts, forms, folded.lowered, plan.holdout, plan.files[file].split).to_arrow(),
        "original": _where(original, lines > 0),
    }
    made = pa.table({name: column.cast(ANNOTATED.field(name).type) for name, column in columns.items()})
    bands = band_records(hashes[passes], numbers[passes]) if hashes is not None else np.empty(0, BAND)
    quarantined = quarantine.to_arrow().cast(QUARANTINE)
    return Annotated(made, quarantined, keys(prints, numbers, passes), bands, dropped.sum(axis=0))


def _split(texts: Buffers, forms: list[bytes], lowered: NDArray[np.uint8], share: float, declared: str | None) -> pl.Series:
    """Train or holdout as the file's name says, else by `holdout_mask`: that folds by lower-casing, which need not be done where
    it gives what is there."""
    if declared is not None:
        return pl.repeat(declared, len(forms), dtype=pl.String, eager=True)
    held = held_out(pl.Series(forms, dtype=pl.Binary), share).to_numpy().copy()
    other = np.flatnonzero(lowered == 0)
    held[other] = holdout_mask(pl.Series([texts.text(at) for at in other.tolist()], dtype=pl.String), share).to_numpy()
    return pl.Series(np.where(held, "holdout", "train"), dtype=pl.String)


def _lists(hashes: NDArray[np.uint64]) -> pa.Array:
    count, bands = hashes.shape
    return pa.ListArray.from_arrays(np.arange(0, count * bands + 1, bands, dtype=np.int32), pa.array(hashes.ravel()))


def _where(texts: Buffers, wanted: NDArray[np.bool_]) -> pa.Array:
    """The texts that are wanted, null for the others."""
    if not wanted.any():
        return pa.nulls(texts.documents, pa.large_string())
    return pa.array([texts.text(at) if yes else None for at, yes in enumerate(wanted.tolist())], pa.large_string())


@contextmanager
def _documents(path: Path) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    with replacing(path) as scratch, pa.ipc.new_file(scratch, ANNOTATED) as writer:
        yield writer


def _ahead(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`work` of each item in their order, with some threads at once; so many items and one more are in memory."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
