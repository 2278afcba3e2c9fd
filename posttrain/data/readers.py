"""Streams the rows of one file, whatever its format, and reports the rows that cannot be read instead of stopping at them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.sources import SourceFile, suffix
from schemas.errors import Refusal

LONGEST_LINE: Final = 100_000_000  # bytes
LONGEST_VALUE: Final = 200  # characters of a bad row that are kept
BATCH: Final = 1024
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

    Lines that are too long, not UTF-8, not JSON or not an object, and the tail of a broken compressed stream, go to `on_bad`.
    Blank lines are skipped, and counted in the row numbers.

    Raises:
        Refusal: when the file as a whole is not what its suffix says.
    """
    read = READERS.get(suffix(file.url) or "")
    if read is None:
        raise Refusal(file.name, "a file of an unknown kind", " ".join(READERS), "convert it")
    with fsspec.open(file.url, "rb") as stream:
        yield from read(file, stream, on_bad)


def unreadable(file: SourceFile, error: Exception) -> Refusal:
    """The refusal of a file whose container is broken."""
    kind = suffix(file.url)
    return Refusal(file.name, f"content that is not {kind}: {error}", f"a complete {kind} file", "write or download it again")


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
    # pyarrow, because it alone notices a truncated zstd stream; python-zstandard reads it as complete.
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, "r"), codec)) if codec else stream


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
    content = stream.read()
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
    yield from _batches(file, lambda: pq.ParquetFile(stream).iter_batches(batch_size=BATCH), on_bad)


def _arrow(file: SourceFile, stream: IO[bytes], on_bad: OnBad) -> Iterator[Row]:
    """Arrow IPC in either layout; `datasets` writes the streaming one."""
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        yield from _batches(file, lambda: _ipc_file(stream), on_bad)
    else:
        yield from _batches(file, lambda: iter(pa.ipc.open_stream(stream)), on_bad)


def _ipc_file(stream: IO[bytes]) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(stream)
    return map(reader.get_batch, range(reader.num_record_batches))


def _batches(file: SourceFile, start: Callable[[], Iterator[pa.RecordBatch]], on_bad: OnBad) -> Iterator[Row]:
    """Rows of record batches. A string that is not UTF-8 costs its row, a broken container the file."""
    row = 0
    try:
        for batch in start():
            for small in (batch.slice(at, BATCH) for at in range(0, batch.num_rows, BATCH)):
                for value in _rows(small):
                    row += 1
                    if isinstance(value, UnicodeDecodeError):
                        on_bad(BadRow(file.name, row, f"not_utf8: {value}", ""))
                    else:
                        yield row, value
    except (pa.ArrowException, OSError) as error:
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
