"""The bytes of a file, decompressed as its first bytes say, whatever its name says, with every break named by its place."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import tempfile
import zlib
from collections.abc import Callable
from typing import IO, Any, Final, cast

import pyarrow as pa

from posttrain.data.bounds import MIB, Counted, Expansion
from posttrain.data.containers.rows import BrokenStream

READ_AHEAD: Final = 1 << 17  # bytes
PIECE: Final = 1 << 14  # bytes that are decompressed at a time: at most as many are lost before a break
LARGEST_DICTIONARY: Final = 256 * MIB  # of xz, which may ask for 4 GiB
IN_MEMORY: Final = 32 * MIB  # bytes of a decompressed table that are not on disk yet
LONGEST_MAGIC: Final = 6


class _Xz(io.RawIOBase):
    """Decompressed xz, one stream after the other, in bounded memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decoder, self._rest = stream, self._new(), b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_DICTIONARY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b""
        while not piece:
            if self._decoder.eof:
                self._rest = self._decoder.unused_data.lstrip(b"\0")  # zeros are padding
                while not self._rest:
                    more = self._stream.read(READ_AHEAD)
                    if not more:
                        return 0
                    self._rest = more.lstrip(b"\0")
                self._decoder = self._new()
            elif self._decoder.needs_input and not self._rest:
                self._rest = self._stream.read(READ_AHEAD)
                if not self._rest:
                    raise EOFError("the compressed stream ends before its end marker")
            piece, self._rest = self._decoder.decompress(self._rest, len(buffer)), b""
        buffer[: len(piece)] = piece
        return len(piece)


def _zstd(stream: IO[bytes]) -> Any:
    """By pyarrow, because it alone notices a truncated zstd stream; python-zstandard reads it as complete."""
    return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")


MAGIC: Final[dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]]] = {
    b"\x1f\x8b": ("gzip", lambda stream: gzip.GzipFile(fileobj=stream)),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", _Xz),
    # Frames of zstd that hold no data, with which those of `pzstd` begin.
    **{bytes([first]) + b"\x2a\x4d\x18": ("zstd", _zstd) for first in range(0x50, 0x60)},
}
"""What a compressed file begins with: the codec's name, and its decoder."""
BROKEN: Final = (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError, UnicodeError)
UTF: Final = {  # by the byte order mark; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Decoded(io.RawIOBase):
    """What a decoder gives, with its errors as `BrokenStream` at the byte that was reached."""

    def __init__(self, decoder: Any, expansion: Expansion) -> None:
        # `read1` gives what there is; `read` would throw that away where a break comes after it.
        self._read, self._expansion = getattr(decoder, "read1", decoder.read), expansion
        self._broken: BrokenStream | None = None

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer.

        Raises:
            BrokenStream: when the compressed bytes are damaged or end too early.
            OSError: when the disk or the network fails, which is not the fault of the data.
            Refusal: when it decodes to more than the size of the file allows.
        """
        if self._broken:
            raise self._broken
        try:
            piece = self._read(min(len(buffer), PIECE))
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            self._broken = BrokenStream(str(error) or type(error).__name__, self._expansion.size + 1)
            raise self._broken from error
        buffer[: len(piece)] = piece
        self._expansion.add(len(piece))
        return len(piece)


class Reread(io.RawIOBase):
    """A stream from its start again, of which some bytes have been read to see what it is."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head, self._at, self._stream = head, 0, stream

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, with what was read before first."""
        if self._at < len(self._head):
            piece = self._head[self._at : self._at + len(buffer)]
            self._at += len(piece)
        else:
            self._head = b""
            piece = self._stream.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Recoded(io.RawIOBase):
    """UTF-16 or UTF-32 as UTF-8; what is neither breaks the stream."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._stream, self._rest, self._count = stream, b"", 0
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ended = False
        while not self._rest and not ended:
            piece = self._stream.read1(len(buffer))
            ended = not piece
            self._count += len(piece)
            try:
                self._rest = self._decoder.decode(piece, final=ended).encode()
            except UnicodeError as error:
                raise BrokenStream(str(error), self._count) from error
        given = self._rest[: len(buffer)]
        buffer[: len(given)], self._rest = given, self._rest[len(given) :]
        return len(given)


def again(head: bytes, stream: Any) -> io.BufferedReader:
    """A buffered stream with its head, which has been read, before it."""
    return io.BufferedReader(Reread(head, stream), READ_AHEAD)


def decompressed(name: str, stream: IO[bytes]) -> tuple[io.BufferedReader, str | None]:
    """The stream, decompressed where its first bytes name a codec, and that codec's name.

    Args:
        name: of the file, for refusals.
        stream: at its start. Files of a web server or a bucket have no `readline` with a limit, so that it is buffered here.
    """
    expansion = Expansion(name)
    counted = io.BufferedReader(Counted(stream, expansion.consumed), READ_AHEAD)
    head = _at_least(counted, LONGEST_MAGIC)
    for magic, (codec, decoder) in MAGIC.items():
        if head.startswith(magic):
            return io.BufferedReader(Decoded(decoder(again(head, counted)), expansion), READ_AHEAD), codec
    return again(head, counted), None


def _at_least(stream: IO[bytes], count: int) -> bytes:
    """So many bytes of a stream that may give fewer at a time, unless it ends."""
    head = b""
    while len(head) < count and (piece := stream.read(count - len(head))):
        head += piece
    return head


def as_utf8(head: bytes, stream: io.BufferedReader) -> tuple[io.BufferedReader, str | None]:
    """The stream, whose head has been read, in UTF-8: recoded where a byte order mark or the zeros of ASCII text say so.

    Returns:
        The stream from its start, and the encoding that it has, or None for UTF-8.
    """
    encoding = next((name for mark, name in UTF.items() if head.startswith(mark)), None) or _by_zeros(head)
    whole = again(head, stream)
    return (io.BufferedReader(_Recoded(whole, encoding), READ_AHEAD), encoding) if encoding else (whole, None)


def _by_zeros(head: bytes) -> str | None:
    """UTF-16 without a mark: JSON and CSV are mostly ASCII, of which every other byte is zero then."""
    start = head[:200]
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if len(zeros) >= 2 and zeros.count(0) > 0.5 * len(zeros) and start.count(0) <= 0.6 * len(start):
            return encoding
    return None


def seekable(stream: IO[bytes], start: int = 0) -> IO[bytes]:
    """The whole of a stream as a file in which one can move, on disk where it is large."""
    copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # closed by whoever reads it
    while piece := stream.read(READ_AHEAD):
        copy.write(piece)
    copy.seek(start)
    return cast(IO[bytes], copy)
