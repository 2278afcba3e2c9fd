"""Streams the rows of one file, whatever it holds, and reports the rows that cannot be read instead of stopping at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import IO, Any, Final, Literal, overload

import fsspec

from posttrain.data.containers import sniff
from posttrain.data.containers.cells import read_cells
from posttrain.data.containers.columns import UNREAD, read_arrow, read_parquet
from posttrain.data.containers.lines import read_lines, read_whole_lines
from posttrain.data.containers.rows import (
    LONGEST_VALUE,
    BadRow,
    BrokenStream,
    Lines,
    Meter,
    OnBad,
    OnNote,
    Reading,
    Row,
    unheard,
)
from posttrain.data.containers.streams import again, as_utf8, decompressed, seekable
from posttrain.data.containers.values import read_values
from posttrain.data.containers.warc import MAGIC as WARC
from posttrain.data.containers.warc import read_warc
from posttrain.data.sources import SourceFile, kind_of
from posttrain.data.split import DeclaredSplits
from schemas.errors import Refusal

__all__ = ["LONGEST_VALUE", "UNREAD", "BadRow", "Lines", "Meter", "OnBad", "OnNote", "Row", "limited", "read_rows"]

MOST_BAD: Final = 100_000  # rows of a file
READERS: Final[dict[sniff.Form, Callable[[Reading, Any], Iterator[Row]]]] = {
    "lines": read_lines,
    "values": read_values,
    "csv": partial(read_cells, delimiter=None),
    "tsv": partial(read_cells, delimiter="\t"),
    "parquet": read_parquet,
    "arrow": read_arrow,
    "warc": read_warc,
}
"""By what a file holds (`containers/sniff.py` tells)."""


@overload
def read_rows(
    file: SourceFile, on_bad: OnBad, *, columns: frozenset[str] | None = None, known: frozenset[str] = frozenset(),
    keep_incomplete: bool = False, note: OnNote = unheard, meter: Meter | None = None, whole: Literal[False] = False,
    fits: Callable[[dict[str, Any]], bool] | None = None,
) -> Iterator[Row]: ...  # fmt: skip


@overload
def read_rows(
    file: SourceFile, on_bad: OnBad, *, columns: frozenset[str] | None = None, known: frozenset[str] = frozenset(),
    keep_incomplete: bool = False, note: OnNote = unheard, meter: Meter | None = None, whole: bool,
    fits: Callable[[dict[str, Any]], bool] | None = None,
) -> Iterator[Row | Lines]: ...  # fmt: skip


def read_rows(
    file: SourceFile,
    on_bad: OnBad,
    *,
    columns: frozenset[str] | None = None,
    known: frozenset[str] = frozenset(),
    keep_incomplete: bool = False,
    note: OnNote = unheard,
    meter: Meter | None = None,
    whole: bool = False,
    fits: Callable[[dict[str, Any]], bool] | None = None,
) -> Iterator[Row | Lines]:
    """Row number (1-based) and columns of each readable row, streamed in bounded memory.

    Rows that are too long, not UTF-8, not JSON or not an object go to `on_bad`. Blank lines are skipped, and counted in the row
    numbers of JSON lines. `split` is text or null: what the row and the name of its file declare.

    Args:
        file: what to read.
        on_bad: is given each row that cannot be read, for at most `MOST_BAD` rows.
        columns, known, keep_incomplete, note, meter, whole, fits: as in `containers.rows.Reading`.

    Raises:
        Refusal: when the file is of no kind that is read, is damaged or breaks off, is in another encoding than UTF-8 or UTF-16,
            or decodes to more than its size allows (`bounds.py`).
    """
    splits, said, silent = DeclaredSplits(file.split), file.reading, file.split is None
    for sentence in file.notes:
        note(sentence)
    with fsspec.open(file.url, "rb") as stream:
        reading = Reading(
            file.name, limited(file, on_bad), note, columns, known, fits, keep_incomplete, said.extractor, said.page_seconds,
            whole, getattr(stream, "size", None), meter or Meter(),
        )  # fmt: skip
        try:
            for each in _rows(reading, stream, kind_of(file.url)):
                if isinstance(each, Lines):
                    yield replace(each, rows=partial(_with_splits, splits, each.rows), side=file.split)
                    continue
                number, row = each
                yield each if silent and "split" not in row else (number, splits.apply(row))
        except BrokenStream as error:  # before the first row
            reading.snapped(1, error)
    if declared := splits.note(file.name):
        note(declared)


def _with_splits(
    splits: DeclaredSplits, rows: Callable[[Iterable[int]], Iterator[Row]], places: Iterable[int]
) -> Iterator[Row]:  # fmt: skip
    """The rows at some places, with the splits that they declare."""
    return ((number, splits.apply(row)) for number, row in rows(places))


def _rows(reading: Reading, stored: IO[bytes], kind: tuple[str, str]) -> Iterator[Row | Lines]:
    """By its first bytes the codec, the encoding and the form of a file, and then its rows."""
    suffix, compressed = kind
    stream, codec = decompressed(reading.name, stored)
    head, whole = sniff.first_bytes(stream)
    sniff.refuse_else(reading.name, head)
    form = sniff.columnar(head)
    if form:
        yield from READERS[form](reading, stored if codec is None and _rewound(stored) else seekable(again(head, stream)))
        return
    if head.startswith(WARC):
        yield from READERS["warc"](reading, again(head, stream))
        return
    if suffix in (".warc", ".wet"):
        raise reading.unreadable("WARC", f"it begins with {head[:8]!r}")
    text, encoding = as_utf8(head, stream)
    if encoding:
        head, whole = sniff.first_bytes(text)
        text = again(head, text)
    # Under the name of something else only text that is plainly JSON is what it seems to be.
    misnamed = suffix in (".parquet", ".arrow") or (compressed and codec is None and suffix not in (".csv", ".tsv"))
    if sniff.is_binary(head) or (misnamed and not sniff.looks_like_json(head)):
        raise reading.unreadable(suffix + compressed, f"it begins with {head[:8]!r}")
    sniff.refuse_encoding(reading.name, head)
    form = sniff.text_form(reading.name, head, whole, suffix)
    yield from read_whole_lines(reading, text) if reading.whole and form == "lines" else READERS[form](reading, text)


def _rewound(stream: IO[bytes]) -> bool:
    """Whether one can move in a stream; it is at its start then. A web server without ranges gives one that only goes on."""
    try:
        return stream.seek(0) == 0
    except (ValueError, OSError):
        return False


def limited(file: SourceFile, on_bad: OnBad) -> OnBad:
    """The same receiver, for at most `MOST_BAD` rows: each is kept until all are judged, and weighs more than its line."""
    count = 0

    def counted(bad: BadRow) -> None:
        nonlocal count
        count += 1
        if count > MOST_BAD:
            raise Refusal(
                where=file.name,
                found=f"over {MOST_BAD:,} rows that cannot be read, the last at {bad.row}: {bad.reason}",
                allowed="a file with fewer",
                remedy="correct the file, or name another",
            )
        on_bad(bad)

    return counted
