"""Streams the rows of one file, whatever its format, and reports the rows that cannot be read instead of stopping at them."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data import bounds
from posttrain.data.arrow_messages import MAGIC, decoded_sizes
from posttrain.data.bounds import Counted, Expansion
from posttrain.data.parquet_pages import LONGEST_LIST, LONGEST_STRING, PagesWatched
from posttrain.data.sources import SourceFile, suffix
from schemas.errors import Refusal

LONGEST_LINE: Final = bounds.LONGEST_ROW
LONGEST_VALUE: Final = 200  # characters of a bad row that are kept
MOST_BAD: Final = 100_000  # rows of a file
BATCH: Final = 1024
READ_AHEAD: Final = 1 << 17  # bytes
CODECS: Final = {".jsonl.gz": "gzip", ".jsonl.zst": "zstd"}
BOM: Final = b"\xef\xbb\xbf"

Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. `reason` is ``code`` or ``code: detail``; `row` is 1-based, a line number in JSONL."""

    file: str
    row: int
    reason: str
    value: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", self.value[:LONGEST_VALUE])

    @property
    def code(self) -> str:
        """The machine-readable part of the reason."""
        return self.reason.split(":", 1)[0]


OnBad = Callable[[BadRow], None]


def read_rows(file: SourceFile, on_bad: OnBad) -> Iterator[Row]:
    """Row number (1-based) and columns of each readable row, streamed; only a `.json` array is held in memory.

    Rows that are too long, not UTF-8, not JSON or not an object, and the tail of a broken compressed stream, go to `on_bad`.
    Blank lines are skipped, and counted in the row numbers.

    Raises:
        Refusal: when the file as a whole is not what its suffix says, or decodes to more than its size allows (`bounds.py`).
    """
    read = READERS.get(suffix(file.url) or "")
    if read is None:
        raise Refusal(where=file.name, found="a file of an unknown kind", allowed=" ".join(READERS), remedy="convert it")
    with fsspec.open(file.url, "rb") as stream:
        yield from read(file, stream, limited(file, on_bad))


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


def unreadable(file: SourceFile, error: Exception) -> Refusal:
    """The refusal of a file whose container is broken."""
    kind = suffix(file.url)
    return Refusal(
        where=file.name,
        found=f"content that is not {kind}: {error}",
        allowed=f"a complete {kind} file",
        remedy="write or download it again",
    )


def _jsonl(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    for row, line in _lines(file, _decompressed(file, stream), on_bad):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            on_bad(BadRow(file.name, row, _fault(line, error), _excerpt(line)))
            continue
        if isinstance(value, dict):
            yield row, value
        else:
            on_bad(BadRow(file.name, row, "not_an_object", _excerpt(line)))


def _decompressed(file: SourceFile, stream: IO[bytes]) -> IO[bytes]:
    codec = CODECS.get(suffix(file.url) or "")
    if codec is None:  # buffered, since files of a web server or a bucket have no `readline` with a limit
        return io.BufferedReader(Counted(stream, lambda count: None), READ_AHEAD)
    so_far = Expansion(file.name)
    # pyarrow, because it alone notices a truncated zstd stream; python-zstandard reads it as complete.
    decoded = pa.CompressedInputStream(pa.PythonFile(Counted(stream, so_far.consumed), "r"), codec)
    return io.BufferedReader(Counted(decoded, so_far.add), READ_AHEAD)


def _lines(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank and not longer than the limit."""
    row = 0
    while True:
        try:
            line = stream.readline(LONGEST_LINE + 1)
            whole = len(line) <= LONGEST_LINE or line.endswith(b"\n") or _skip_line(stream)
        except OSError as error:
            if error.errno is not None:  # the disk or the network failed: not the fault of the data
                raise
            if row == 0:
                raise unreadable(file, error) from error
            on_bad(BadRow(file.name, row + 1, f"broken_stream: {error}; everything from this row on is lost", ""))
            return
        if not line:
            return
        row += 1
        line = line.removeprefix(BOM) if row == 1 else line
        if not whole:
            on_bad(BadRow(file.name, row, f"line_too_long: over {LONGEST_LINE} bytes", _excerpt(line)))
        elif not line.isspace():
            yield row, line


def _skip_line(stream: IO[bytes]) -> bool:
    """Read to the end of an over-long line in pieces of bounded size; always False."""
    while (piece := stream.readline(1 << 20)) and not piece.endswith(b"\n"):
        pass
    return False


def _fault(line: bytes, error: orjson.JSONDecodeError) -> str:
    """Which of the two things is wrong with a line: its encoding or its syntax."""
    try:
        line.decode()
    except UnicodeDecodeError as encoding:
        return f"not_utf8: byte {encoding.start + 1} of the line"
    return f"not_json: {error}"


def _excerpt(line: bytes) -> str:
    return line[: 4 * LONGEST_VALUE].decode(errors="replace").strip()


def _json(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    """A JSON array of objects. Without a bracket at its start the file is read as JSON lines, which hubs often name `.json`."""
    content = stream.read(bounds.LONGEST_ARRAY + 1)
    if len(content) > bounds.LONGEST_ARRAY:
        allowed = f"at most {bounds.LONGEST_ARRAY // bounds.MIB} MiB, since it is parsed whole"
        raise Refusal(where=file.name, found="a larger .json file", allowed=allowed, remedy="save the rows as .jsonl, one a line")
    if not content.removeprefix(BOM).lstrip().startswith(b"["):
        yield from _jsonl(file, io.BytesIO(content), on_bad)
        return
    try:
        values = orjson.loads(content.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise unreadable(file, error) from error
    for row, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield row, value
        else:
            on_bad(BadRow(file.name, row, "not_an_object", json.dumps(value, ensure_ascii=False)))


def _parquet(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    yield from _batches(file, stream, _parquet_batches, on_bad)


def _parquet_batches(stream: IO[bytes], so_far: Expansion) -> Iterator[pa.RecordBatch]:
    """Batches whose texts are dictionaries where the file has them so: one text for a thousand rows is then held once."""
    limits = {"thrift_container_size_limit": LONGEST_LIST, "thrift_string_size_limit": LONGEST_STRING}
    found = pq.ParquetFile(stream, **limits).metadata
    chunks = [found.row_group(g).column(c) for g in range(found.num_row_groups) for c in range(found.num_columns)]
    for chunk in chunks:
        so_far.check(max(chunk.total_uncompressed_size, 4 * chunk.num_values))
    texts = {chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
    columns = map(found.schema.column, range(found.num_columns))
    decimals = {column.path for column in columns if "DECIMAL" in str(column.logical_type)}
    rows = min((_rows_at_once(chunk) for chunk in chunks), default=BATCH)
    watched = PagesWatched(stream, found, so_far.check)
    reader = pq.ParquetFile(watched, read_dictionary=sorted(texts - decimals), metadata=found, pre_buffer=False, **limits)
    yield from reader.iter_batches(batch_size=rows)


def _rows_at_once(chunk: pq.ColumnChunkMetaData) -> int:
    """Few where each value may repeat all that stands before it, so that it is as long as the chunk."""
    if "DELTA_BYTE_ARRAY" not in chunk.encodings:
        return BATCH
    return min(BATCH, max(1, bounds.LONGEST_BATCH // max(1, int(chunk.total_uncompressed_size))))


def _arrow(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    yield from _batches(file, stream, _arrow_batches, on_bad)


def _arrow_batches(stream: IO[bytes], so_far: Expansion) -> Iterator[pa.RecordBatch]:
    """Arrow IPC in either layout; `datasets` writes the streaming one."""
    for size in decoded_sizes(stream):
        so_far.check(size)
    stream.seek(0)
    if stream.read(len(MAGIC)) == MAGIC:
        stream.seek(0)
        reader = pa.ipc.open_file(stream)
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        stream.seek(0)
        yield from pa.ipc.open_stream(stream)


Start = Callable[[IO[bytes], Expansion], Iterator[pa.RecordBatch]]


def _batches(file: SourceFile, stream: IO[bytes], start: Start, on_bad: OnBad) -> Iterator[Row]:
    """Rows of record batches. A string that is not UTF-8 and a row that is too large cost themselves, a broken file all of it."""
    so_far = Expansion(file.name, stream.seek(0, io.SEEK_END))
    stream.seek(0)
    row = 0
    try:
        for part, sizes in (weighed for batch in start(stream, so_far) for weighed in bounds.weighed(batch)):
            so_far.add(int(sizes.sum()))
            for at, count in bounds.pieces(sizes, BATCH):
                if sizes[at] > bounds.LONGEST_ROW:
                    row += 1
                    on_bad(BadRow(file.name, row, f"row_too_large: {sizes[at]} bytes, over {bounds.LONGEST_ROW}", ""))
                    continue
                for value in _rows(part.slice(at, count)):
                    row += 1
                    if isinstance(value, UnicodeDecodeError):
                        on_bad(BadRow(file.name, row, f"not_utf8: {value}", ""))
                    else:
                        yield row, value
    except (pa.ArrowException, OSError, IndexError, struct.error) as error:
        raise unreadable(file, error) from error


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


READERS: Final[dict[str, Callable[[SourceFile, IO[bytes], OnBad], Iterator[Row]]]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".jsonl.zst": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
