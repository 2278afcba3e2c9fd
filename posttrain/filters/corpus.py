"""Filter a corpus in one streaming pass: read, check, annotate, decide, write. Nothing vanishes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.readers import LONGEST_VALUE, BadRow, read_rows
from posttrain.data.sources import SourceFile
from posttrain.data.split import holdout_mask
from posttrain.filters.dedup import duplicates
from posttrain.filters.metrics import METRICS, annotate
from posttrain.filters.rules import reasons
from posttrain.filters.summary import Summary
from schemas.filtering import Filtering
from schemas.documents import broken_rows
from schemas.errors import Refusal

BATCH_CHARACTERS = 8_000_000
BATCH_ROWS = 50_000
HEAD_ROWS = 20  # of each file; one of them must have a text column

_DOCUMENT = {"id": pa.string(), "text": pa.string(), "source": pa.string(), "row": pa.int64()}
_ANNOTATED = _DOCUMENT | dict.fromkeys(METRICS, pa.float64())
OUTPUTS = {
    "kept": pa.schema(_ANNOTATED | {"split": pa.string()}),
    "rejected": pa.schema(_ANNOTATED | {"reasons": pa.list_(pa.string()), "duplicate_of": pa.string()}),
    "quarantine": pa.schema({"file": pa.string(), "row": pa.int64(), "reason": pa.string(), "value": pa.string()}),
}
"""Columns of kept.parquet, rejected.parquet and quarantine.parquet."""

Document = dict[str, Any]


def filter_corpus(
    files: list[SourceFile],
    filtering: Filtering,
    holdout: float,
    out: Path,
    on_progress: Callable[[int], None] = lambda documents: None,
) -> dict[str, float]:
    """Decide about every document and write kept, rejected and quarantine parquet and summary.json into `out`.

    Args:
        holdout: share of the kept documents whose split is "holdout".
        on_progress: called after each batch with the number of documents read so far.

    Returns:
        Flat metrics: documents_in, documents_kept, documents_rejected, documents_quarantined, documents_train,
        documents_holdout, kept_characters.

    Raises:
        Refusal: when a file has no text column, or nothing is kept.
    """
    rules = filtering.resolved()
    summary, seen, bad = Summary(rules), dict[bytes, str](), list[BadRow]()
    documents_in = 0
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(pq.ParquetWriter(out / f"{name}.parquet", OUTPUTS[name])) for name in OUTPUTS}
        for batch in _batches(_documents(files, bad.append), bad):
            documents_in += len(batch) + len(bad)
            documents, broken = _check(batch, bad)
            bad.clear()
            annotated = documents.hstack(annotate(documents["text"]))
            annotated = annotated.with_columns(reasons(annotated, rules))
            kept, rejected = _decide(annotated, seen if filtering.dedup.exact else None, holdout)
            for name, table in {"kept": kept, "rejected": rejected, "quarantine": broken}.items():
                writers[name].write_table(table.select(OUTPUTS[name].names).to_arrow().cast(OUTPUTS[name]))
            summary.add(kept, rejected, broken.height)
            on_progress(documents_in)
    return _finish(summary, documents_in, out)


def check_text(files: Iterable[SourceFile]) -> None:
    """Refuse a file that has no text column, reading only its first rows."""
    for file in files:
        _with_text(file, read_rows(file, lambda bad: None))


def _documents(files: Iterable[SourceFile], on_bad: Callable[[BadRow], None]) -> Iterator[Document]:
    """One document per readable row: id, text, source, row."""
    for file in files:
        for row, columns in _with_text(file, read_rows(file, on_bad)):
            name = columns.get("id")
            yield {
                "id": f"{file.name}:{row}" if name is None else str(name),
                "text": columns.get("text"),
                "source": file.name,
                "row": row,
            }


def _with_text(file: SourceFile, rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same rows, once one of the first few has been seen to have a text column."""
    head = list(islice(rows, HEAD_ROWS))
    if head and not any("text" in columns for _, columns in head):
        found = ", ".join(sorted({name for _, columns in head for name in columns})) or "none"
        raise Refusal(
            where=file.name,
            found=f"columns {found}",
            allowed="a column named text",
            remedy="rename the column that holds the document to text",
        )
    return chain(head, rows)


def _batches(documents: Iterator[Document], bad: list[BadRow]) -> Iterator[list[Document]]:
    """Batches of bounded size, whatever the size of the corpus; the last may be empty when only bad rows are left."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document["text"]) if isinstance(document["text"], str) else 0
        if characters >= BATCH_CHARACTERS or len(batch) + len(bad) >= BATCH_ROWS:
            yield batch
            batch, characters = [], 0
    if batch or bad:
        yield batch


def _check(batch: list[Document], bad: list[BadRow]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents that honour the contract, and the quarantine rows of those that do not and of unreadable rows."""
    strings = [document["text"] if isinstance(document["text"], str) else None for document in batch]
    schema = {"id": pl.String, "text": pl.String, "source": pl.String, "row": pl.Int64}
    columns = {name: [document[name] for document in batch] for name in schema} | {"text": strings}
    documents = pl.DataFrame(columns, schema=schema)
    broken = broken_rows(documents)
    lines = [(row.file, row.row, row.reason, row.value) for row in bad]
    for position, reason in broken.iter_rows():
        text = batch[position]["text"]
        why = reason if text is None or isinstance(text, str) else f"text_not_a_string: {type(text).__name__}"
        lines.append((batch[position]["source"], batch[position]["row"], why, repr(text)[:LONGEST_VALUE]))
    quarantine = pl.DataFrame(lines, schema=["file", "row", "reason", "value"], orient="row", infer_schema_length=None)
    sound = documents.with_row_index("position").join(broken, on="position", how="anti", maintain_order="left").drop("position")
    return sound, quarantine


def _decide(annotated: pl.DataFrame, seen: dict[bytes, str] | None, holdout: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Kept documents with their split, and rejected ones with all their reasons; `seen` is None when deduplication is off."""
    passed = annotated["reasons"].list.len() == 0
    if seen is None:
        copies = pl.Series("duplicate_of", [None] * annotated.height, dtype=pl.String)
    else:
        copies = duplicates(annotated["id"], annotated["text"], passed, seen)
    repeated = pl.when(pl.col("duplicate_of").is_not_null()).then(pl.lit("duplicate"))
    decided = annotated.with_columns(copies).with_columns(pl.concat_list("reasons", repeated).list.drop_nulls())
    keep = decided["reasons"].list.len() == 0
    kept = decided.filter(keep)
    held_out = holdout_mask(kept["text"], holdout)
    split = pl.when(held_out).then(pl.lit("holdout")).otherwise(pl.lit("train"))
    return kept.with_columns(split=split), decided.filter(~keep)


def _finish(summary: Summary, documents_in: int, out: Path) -> dict[str, float]:
    """Assert that the rows balance, write summary.json, refuse an empty result."""
    document = summary.document(documents_in)
    decided = document["kept"] + document["rejected"] + document["quarantined"]
    if decided != documents_in:
        raise AssertionError(f"{documents_in} rows in, {decided} rows out")
    (out / "summary.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    if document["kept"] == 0:
        frequent = ", ".join(f"{reason} ({count})" for reason, count in islice(document["reasons"].items(), 3))
        counts = f"{documents_in} documents, none kept, {document['quarantined']} quarantined"
        found = f"{counts}; most frequent reasons: {frequent or 'none'}"
        raise Refusal(
            where="data.corpus",
            found=found,
            allowed="at least one document that passes",
            remedy="loosen filtering.rules, or give other data",
        )
    names = ("kept", "rejected", "quarantined", "train", "holdout")
    decisions = {f"documents_{name}": float(document[name]) for name in names}
    return {"documents_in": float(documents_in), **decisions, "kept_characters": float(document["kept_characters"])}
