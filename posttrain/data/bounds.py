"""What a file may ask of this machine: limits by which a small one cannot fill its memory, each named where it refuses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import Refusal

MIB: Final = 1 << 20
LONGEST_ROW: Final = 16 * MIB  # bytes; of a line too
LONGEST_BATCH: Final = 32 * MIB  # bytes of rows that are Python objects at a time
LONGEST_ARRAY: Final = 1024 * MIB  # bytes of a `.json` file, which is parsed whole
FREE: Final = 32 * MIB  # that a file of any size may decode to
EXPANSION: Final = 100  # times its size that a larger one may; text compresses to a third, or to a twentieth where it repeats
VALUE_COST: Final = 16  # bytes that a value counts beside its text, so that endless empty rows end too
WINDOW: Final = 1 << 16  # rows that are weighed at a time

Sizes = NDArray[np.int64]


class Expansion:
    """The bytes that a file has decoded to, against what its own size allows.

    Args:
        name: of the file, for refusals.
        size: bytes of the file; a stream that has none counts what was read of it, by `consumed`.
    """

    def __init__(self, name: str, size: int = 0) -> None:
        self.name, self.size, self.decoded = name, size, 0

    def consumed(self, count: int) -> None:
        """More bytes of the file itself."""
        self.size += count

    def add(self, count: int) -> None:
        """More bytes that came out of it.

        Raises:
            Refusal: when they are too many for its size.
        """
        self.decoded += count
        self.check(self.decoded)

    def check(self, total: int) -> None:
        """Refuse a file that would decode to so many bytes."""
        allowed = max(FREE, EXPANSION * self.size)
        if total > allowed:
            raise Refusal(
                where=self.name,
                found=f"{self.size:,} bytes that decode to over {allowed:,}",
                allowed=f"at most {EXPANSION} times the size of a file, or {FREE // MIB} MiB",
                remedy="write it again with less compression, or in several files",
            )


class Counted(io.RawIOBase):
    """A stream that reports how many bytes are read through it."""

    def __init__(self, stream: Any, report: Callable[[int], None]) -> None:
        self._stream, self._report = stream, report

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, and report."""
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self._report(len(piece))
        return len(piece)


def weighed(batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, Sizes]]:
    """Parts of a batch with the bytes of each row; a batch may claim more rows than there is memory for their sizes."""
    for at in range(0, batch.num_rows, WINDOW):
        part = batch.slice(at, WINDOW)
        yield part, sum((row_bytes(column) for column in part.columns), np.full(part.num_rows, VALUE_COST, np.int64))


def pieces(sizes: Sizes, rows: int) -> Iterator[tuple[int, int]]:
    """Start and length of runs of at most so many rows and `LONGEST_BATCH` bytes; a row above `LONGEST_ROW` stands alone."""
    start, held = 0, 0
    for at, size in enumerate(sizes.tolist()):
        full = at - start == rows or held + size > LONGEST_BATCH
        if at > start and (full or size > LONGEST_ROW or sizes[start] > LONGEST_ROW):
            yield start, at - start
            start, held = at, 0
        held += size
    if len(sizes) > start:
        yield start, len(sizes) - start


def row_bytes(array: pa.Array) -> Sizes:
    """Bytes of each value as Python objects would hold its texts, which a dictionary stores once and a view may share.

    Raises:
        pyarrow.ArrowNotImplementedError: for a type in which values may overlap (list views, run-end encoding).
    """
    sizes: Sizes = _sizes(array) if len(array) else np.zeros(0, np.int64)
    return sizes


def _sizes(array: Any) -> Any:
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return row_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        return _looked_up(array)
    if pa.types.is_struct(kind):
        return sum((row_bytes(child) for child in array.flatten()), np.full(len(array), VALUE_COST, np.int64))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _of_lists(array)
    if pa.types.is_fixed_size_list(kind):
        return row_bytes(array.flatten() if not array.null_count else array.fill_null([None] * kind.list_size).flatten()).reshape(
            len(array), kind.list_size
        ).sum(axis=1)  # fmt: skip
    return _of_plain(array) + VALUE_COST


def _looked_up(array: pa.DictionaryArray) -> Any:
    known = np.append(row_bytes(array.dictionary), VALUE_COST)  # the last for null
    return known[array.indices.cast(pa.int64()).fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]


def _of_lists(array: Any) -> Any:
    offsets = array.offsets.to_numpy().astype(np.int64)
    inner = pa.StructArray.from_arrays([array.keys, array.items], ["k", "v"]) if pa.types.is_map(array.type) else array.values
    within = row_bytes(inner.slice(offsets[0], offsets[-1] - offsets[0]))
    sums = np.concatenate([[0], np.cumsum(within)])
    return sums[offsets[1:] - offsets[0]] - sums[offsets[:-1] - offsets[0]] + VALUE_COST


def _of_plain(array: pa.Array) -> Any:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], np.int32)[::4]  # 16 bytes each, of which the first four are the length
        return views[array.offset : array.offset + len(array)].astype(np.int64)
    if pa.types.is_null(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        return np.full(len(array), 0 if pa.types.is_null(kind) else max(1, kind.bit_width // 8), np.int64)
    raise pa.ArrowNotImplementedError(f"a column of type {kind}")
