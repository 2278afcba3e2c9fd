"""How large the compressed buffers of Arrow IPC messages become, read from the messages before Arrow takes memory for them.

Message.fbs, File.fbs: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO, Any, Final

import pyarrow as pa

MAGIC: Final = b"ARROW1"
RECORD_BATCH, DICTIONARY_BATCH = 3, 2  # of MessageHeader


def decoded_sizes(stream: IO[bytes]) -> Iterator[int]:
    """Bytes of each message's buffers once decompressed; the stream is left where it ends.

    Raises:
        struct.error, OSError, pyarrow.ArrowException: when the file is not what it should be.
    """
    stream.seek(0)
    if stream.read(len(MAGIC)) == MAGIC:
        yield from (_decoded(metadata, body) for metadata, body in _blocks(stream))
        return
    for message in pa.ipc.MessageReader.open_stream(_Within(stream)):
        yield _decoded(message.metadata.to_pybytes(), memoryview(message.body or b""))


class _Within:
    """A stream from its start, of which never more is asked than it has: a message says itself how long it is."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.end = stream, stream.seek(0, io.SEEK_END)
        stream.seek(0)

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        return self.stream.read(min(count, self.end - self.stream.tell()))


def _blocks(stream: IO[bytes]) -> Iterator[tuple[bytes, memoryview]]:
    """Metadata and body of each block that the footer of a file lists."""
    end = stream.seek(-len(MAGIC) - 4, io.SEEK_END)
    (length,) = struct.unpack("<i", stream.read(4))
    stream.seek(max(0, end - length))
    footer = stream.read(max(0, length))
    for index in (2, 3):  # dictionaries, recordBatches
        vector = _field(footer, _root(footer), index)
        start = vector + _unsigned(footer, vector) if vector else 0
        for at in range(_unsigned(footer, start) if vector else 0):
            offset, size, body = struct.unpack_from("<qixxxxq", footer, start + 4 + 24 * at)
            if min(offset, size, body) < 0 or offset + size + body > end:  # reading would take memory for what is not there
                raise pa.ArrowInvalid(f"a block of {size + body:,} bytes at {offset:,} of a file of {end:,}")
            stream.seek(offset)
            prefixed = stream.read(size)
            metadata = prefixed[8:] if prefixed[:4] == b"\xff\xff\xff\xff" else prefixed[4:]
            yield metadata, memoryview(stream.read(body))


def _decoded(metadata: bytes, body: memoryview) -> int:
    """Each compressed buffer begins with its size in eight bytes, or -1 where it was left as it is."""
    message = _root(metadata)
    kind, header = _field(metadata, message, 1), _field(metadata, message, 2)
    if not kind or not header or metadata[kind] not in (RECORD_BATCH, DICTIONARY_BATCH):
        return 0
    batch = header + _unsigned(metadata, header)
    if metadata[kind] == DICTIONARY_BATCH:
        inner = _field(metadata, batch, 1)
        batch = inner + _unsigned(metadata, inner)
    if not _field(metadata, batch, 3):
        return len(body)
    vector = _field(metadata, batch, 2)
    start = vector + _unsigned(metadata, vector)
    sizes = 0
    for at in range(_unsigned(metadata, start)):
        offset, length = struct.unpack_from("<qq", metadata, start + 4 + 16 * at)
        if length >= 8:
            (size,) = struct.unpack_from("<q", body, offset)
            sizes += length if size < 0 else size
    return sizes


def _root(buffer: bytes) -> int:
    return _unsigned(buffer, 0)


def _field(buffer: bytes, table: int, index: int) -> int:
    """Where a field of a flatbuffers table stands; 0 where it is left out."""
    (back,) = struct.unpack_from("<i", buffer, table)
    vtable, slot = table - back, 4 + 2 * index
    (size,) = struct.unpack_from("<H", buffer, vtable)
    (offset,) = struct.unpack_from("<H", buffer, vtable + slot) if slot < size else (0,)
    return table + int(offset) if offset else 0


def _unsigned(buffer: Any, at: int) -> int:
    (number,) = struct.unpack_from("<I", buffer, at)
    return int(number)
