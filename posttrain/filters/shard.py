"""The first task of a run: read one file, and write its documents with their metrics, fingerprints and band hashes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import feather

from posttrain.data.split import held_out_bytes, holdout_mask
from posttrain.filters import divergence, repeated_lines, score_rules
from posttrain.filters.documents import Batch, Progress, batches, checked
from posttrain.filters.kernels.lines import REASONS
from posttrain.filters.metrics import METRICS
from posttrain.filters.plan import FILE_BITS, Plan, save
from posttrain.filters.rules import DROPPED, passing
from posttrain.filters.runs import Runs
from posttrain.filters.scores import COLUMNS, Texts, scored
from posttrain.filters.urls import url_keys
from posttrain.filters.variants import changed, described
from posttrain.runtime.arrow_memory import of_system, trimmed
from posttrain.runtime.writing import replacing, write_atomically
from posttrain.text.buffers import Buffers, arrow, buffers
from posttrain.text.copies import KEY, Records, fingerprints, keys
from posttrain.text.kernels.folding import Folded, fold
from posttrain.text.near import BAND, band_hashes, band_records
from posttrain.text.personal_data import redact_all

TRIM = 32  # batches of 4 MB of text
T = TypeVar("T")
R = TypeVar("R")

DOCUMENT = {"id": pa.string(), "text": pa.large_string(), "source": pa.string(), "row": pa.int64(), "url": pa.string()}
MEASURED = {
    **dict.fromkeys(METRICS, pa.float64()),
    **COLUMNS,
    "lines_dropped": pa.int64(),
    "number": pa.int64(),
    "fingerprint": pa.binary(16),
    "bands": pa.list_(pa.uint64()),
}
ANNOTATED_TYPES = DOCUMENT | MEASURED | {"split": pa.string(), "original": pa.large_string()}
ANNOTATED = pa.schema(ANNOTATED_TYPES)
"""`split` is for kept documents; `original` is the text before lines were dropped, where any were and `text` is without them."""
LINE_RULES = (*REASONS, repeated_lines.RULE)
"""What takes lines out, in the order of their counts."""
QUARANTINE = pa.schema({"file": pa.string(), "row": pa.int64(), "reason": pa.string(), "value": pa.string()})


class Annotated(NamedTuple):
    """What comes of a batch."""

    documents: pa.Table
    quarantine: pa.Table
    keys: Records
    bands: Records
    urls: Records
    words: NDArray[np.int64]
    """How often each bin of words occurs."""
    dropped: NDArray[np.int64]
    """Lines that were taken out, by LINE_RULES."""


@of_system()
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
    records = {name: Runs(plan, name, number, by) for name, by in (("keys", "high"), ("bands", "hash"), ("urls", "high"))}
    bad: list[pa.Table] = []
    dropped, words = np.zeros(len(LINE_RULES), np.int64), divergence.none_counted()
    try:
        with _documents(plan.piece("documents", number, "arrow")) as writer:
            parts = _ahead(lambda batch: annotated(batch, plan, number), batches(plan.files[number]), plan.threads)
            for part in trimmed(parts, TRIM):
                writer.write_table(part.documents)
                bad.append(part.quarantine)
                for name, runs in records.items():
                    runs.add(getattr(part, name))
                dropped += part.dropped
                words += part.words
                on_batch(len(part.documents) + len(part.quarantine))
    finally:
        feather.write_feather(pa.concat_tables([QUARANTINE.empty_table(), *bad]), plan.piece("quarantine", number, "arrow"))
    for runs in records.values():
        runs.end()
    save(plan.piece("words", number), lambda: words)
    lines = dict(zip(LINE_RULES, dropped.tolist(), strict=True))
    return {"documents": records["keys"].count, "quarantined": sum(map(len, bad)), "dropped": lines}


def annotated(batch: Batch, plan: Plan, file: int) -> Annotated:
    """Check a batch, take lines out, measure, and fold."""
    documents, strings, quarantine = checked(batch, plan.files[file].name)
    raw = buffers(strings)
    rarer, repeats = repeated_lines.without(raw, repeated_lines.load(plan.work))
    masked, personal = _masked(rarer, plan)
    original = masked if rarer is raw else _masked(raw, plan)[0]
    texts, by_rule, found = described(masked, plan.filtering)
    dropped = np.column_stack([by_rule, repeats])
    lines = dropped.sum(axis=1)
    metrics = {**dict(zip(METRICS, np.ascontiguousarray(found.T), strict=True)), DROPPED: lines}
    numbers = documents["row"].to_numpy() + (file << FILE_BITS)
    folded = fold(texts.data, texts.offsets)
    scores = scored(Texts(texts, folded), plan.filtering, plan.work, personal)
    passes = passing(metrics, plan.filtering.resolved())
    passes &= score_rules.passing(pl.DataFrame(scores), plan.filtering).to_numpy()
    forms = folded.views()
    prints = fingerprints(forms)
    hashes = band_hashes(folded, *plan.bands) if plan.bands else None
    columns = {
        **{name: documents[name].to_arrow() for name in DOCUMENT if name != "text"},
        **_stored(original, texts, passes | bool(plan.filtering.divergence)),
        **{name: pa.array(values) for name, values in metrics.items()},
        **scores,
        "number": pa.array(numbers),
        "fingerprint": pa.array(prints, pa.binary(16)),
        "bands": pa.nulls(len(prints), pa.list_(pa.uint64())) if hashes is None else _lists(hashes),
        "split": _split(texts, forms, folded.lowered, plan.holdout, plan.files[file].split).to_arrow(),
    }
    return Annotated(
        documents=pa.table({name: columns[name].cast(kind) for name, kind in ANNOTATED_TYPES.items()}),
        quarantine=quarantine.to_arrow().cast(QUARANTINE),
        keys=keys(b"".join(prints), numbers, passes),
        bands=band_records(hashes[passes], numbers[passes]) if hashes is not None else np.empty(0, BAND),
        urls=url_keys(documents["url"].to_list(), numbers, passes) if plan.filtering.dedup.url else np.empty(0, KEY),
        words=_words(folded, plan),
        dropped=dropped.sum(axis=0),
    )


def _masked(texts: Buffers, plan: Plan) -> tuple[Buffers, dict[str, NDArray[np.int64]]]:
    """The texts with placeholders for personal data, and how many each has, where the recipe asks."""
    if plan.filtering.personal is None:
        return texts, {}
    masked, counts = redact_all(texts, plan.filtering.personal.kinds)
    return masked, {"personal_data": counts.sum(axis=1)}


def _words(folded: Folded, plan: Plan) -> NDArray[np.int64]:
    total = divergence.none_counted()
    if plan.filtering.divergence:
        divergence.counted(folded, total)
    return total


def _split(
    texts: Buffers, forms: Sequence[memoryview], lowered: NDArray[np.uint8], share: float, declared: str | None
) -> pl.Series:
    """Train or holdout as the file's name says, else by `holdout_mask`: that folds by lower-casing, which need not be done where
    it gives what is there."""
    if declared is not None:
        return pl.repeat(declared, len(forms), dtype=pl.String, eager=True)
    held = np.array(held_out_bytes(forms, share), bool)
    other = np.flatnonzero(lowered == 0)
    held[other] = holdout_mask(pl.Series([texts.text(at) for at in other.tolist()], dtype=pl.String), share).to_numpy()
    return pl.Series(np.where(held, "holdout", "train"), dtype=pl.String)


def _lists(hashes: NDArray[np.uint64]) -> pa.Array:
    count, bands = hashes.shape
    return pa.ListArray.from_arrays(np.arange(0, count * bands + 1, bands, dtype=np.int32), pa.array(hashes.ravel()))


def _stored(original: Buffers, texts: Buffers, wanted: NDArray[np.bool_]) -> dict[str, pa.Array]:
    """The columns `text` and `original`. A document that is out by now is rejected as it was, so that is all that is kept of it.

    Args:
        wanted: of which the text without lines is still read.
    """
    other = changed(original, texts)
    if not other.any():
        return {"text": arrow(texts), "original": pa.nulls(texts.documents, pa.large_string())}
    either = pc.if_else(pa.array(wanted), arrow(texts), arrow(original))
    return {"text": either, "original": pc.if_else(pa.array(other & wanted), arrow(original), pa.scalar(None, either.type))}


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
