"""From the rows of a file to batches of documents that honour the contract, and the rows that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa

from posttrain.data.readers import LONGEST_VALUE, BadRow, read_rows
from posttrain.data.sources import SourceFile
from schemas.documents import broken_rows
from schemas.errors import Refusal

BATCH_CHARACTERS = 4_000_000
BATCH_ROWS = 20_000
COLUMNS = frozenset({"id", "text", "url"})  # that are read
HEAD_ROWS: Final = 20  # of each file; one of them must have a text
SCHEMA: Final = {"id": pl.String, "source": pl.String, "row": pl.Int64, "url": pl.String}

Row = tuple[int, dict[str, Any]]


@dataclass
class Batch:
    """Some rows of a file, in their order."""

    ids: list[str] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    """Rows that could not be read."""
    characters: int = 0

    @property
    def full(self) -> bool:
        """Whether the next row starts another batch."""
        return self.characters >= BATCH_CHARACTERS or len(self.rows) + len(self.bad) >= BATCH_ROWS

    def add(self, row: int, columns: dict[str, Any], source: str) -> None:
        """One more document."""
        name, text, url = columns.get("id"), columns.get("text"), columns.get("url")
        self.ids.append(f"{source}:{row}" if name is None else str(name))
        self.texts.append(text)
        self.urls.append(url if isinstance(url, str) else None)
        self.rows.append(row)
        self.characters += len(text) if isinstance(text, str) else 0


def check_text(files: Iterable[SourceFile]) -> None:
    """Refuse a file that has no text column, reading only its first rows."""
    for file in files:
        _with_text(file, read_rows(file, lambda bad: None, columns=COLUMNS, known=COLUMNS, fits=has_text))


def batches(file: SourceFile) -> Iterator[Batch]:
    """All rows of a file, in batches whose size is bounded and depends on nothing but the file.

    Raises:
        Refusal: when it has no column of texts, or is cut off.
    """
    batch = Batch()

    def on_bad(bad: BadRow) -> None:
        batch.bad.append(bad)

    try:
        for row, columns in _with_text(file, read_rows(file, on_bad, columns=COLUMNS, known=COLUMNS, fits=has_text)):
            batch.add(row, columns, file.name)
            if batch.full:
                yield batch
                batch = Batch()
    except Refusal:
        yield Batch(bad=batch.bad)  # for the quarantine, which is all that is left
        raise
    if batch.rows or batch.bad:
        yield batch


def has_text(row: dict[str, Any]) -> bool:
    """Whether a row is a document."""
    return isinstance(row.get("text"), str)


def _with_text(file: SourceFile, rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, once one of the first few has been seen to have a text."""
    head = list(islice(rows, HEAD_ROWS))
    given = [columns["text"] for _, columns in head if "text" in columns]
    if head and not given:
        found = ", ".join(sorted({name for _, columns in head for name in columns})) or "none"
        remedy = "rename the column that holds the document to text"
        raise Refusal(where=file.name, found=f"columns {found}", allowed="a column named text", remedy=remedy)
    values = [value for value in given if value is not None]
    if values and not any(isinstance(value, str) for value in values):
        found = f"text is {_kind(values)} in all of the first {len(head)} rows"
        remedy = "name the column that holds the document text, and give what is there now another name"
        raise Refusal(where=file.name, found=found, allowed="strings in the column text", remedy=remedy)
    return chain(head, rows)


def _kind(values: list[Any]) -> str:
    """The Arrow type of some values."""
    try:
        return str(pa.infer_type(values))
    except pa.ArrowException:
        return type(values[0]).__name__


class Checked(NamedTuple):
    """What is in a batch."""

    documents: pl.DataFrame
    """Those that honour the contract: id, source, row, url."""
    texts: pa.Array
    """Their texts, as they stay: polars would copy them on their way in and out."""
    quarantine: pl.DataFrame
    """The rows of those that do not, and those that could not be read."""


def checked(batch: Batch, source: str) -> Checked:
    """The documents and the quarantine of a batch."""
    texts = pa.array([text if isinstance(text, str) else None for text in batch.texts], pa.large_string())
    columns = {"id": batch.ids, "source": [source] * len(texts), "row": batch.rows, "url": batch.urls}
    documents = pl.DataFrame(columns, schema=SCHEMA)
    broken = broken_rows(documents.select("id", pl.Series("text", texts, dtype=pl.String), "source", "row"))
    lines = [(bad.file, bad.row, bad.reason, bad.value) for bad in batch.bad]
    for position, reason in broken.iter_rows():
        text = batch.texts[position]
        why = reason if text is None or isinstance(text, str) else f"text_not_a_string: {type(text).__name__}"
        lines.append((source, batch.rows[position], why, repr(text)[:LONGEST_VALUE]))
    schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "value": pl.String}
    quarantine = pl.DataFrame(lines, schema=schema, orient="row")
    if broken.height:
        whole = sorted(set(range(documents.height)) - set(broken["position"]))
        documents, texts = documents[whole], texts.take(pa.array(whole, pa.int64()))
    return Checked(documents, texts, quarantine)


Progress = Callable[[int], None]
"""Told how many documents were read since it was last told."""
