"""Texts as the kernels take them: UTF-8 in two Arrow buffers, of which nothing is copied."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray


class Buffers(NamedTuple):
    """UTF-8 of some documents, one after the other."""

    data: NDArray[np.uint8]
    """All bytes."""
    offsets: NDArray[np.int64]
    """Where each document starts, and where the last one ends, shape (documents + 1,)."""

    def text(self, at: int) -> str:
        """One document."""
        return self.data[self.offsets[at] : self.offsets[at + 1]].tobytes().decode()

    @property
    def documents(self) -> int:
        """How many documents."""
        return len(self.offsets) - 1


def buffers(texts: pa.Array) -> Buffers:
    """The buffers of an Arrow array of `large_string` without nulls; nothing is copied."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    held = texts.buffers()[2]
    return Buffers(np.frombuffer(held, np.uint8) if held else np.empty(0, np.uint8), offsets)


def of_series(texts: pl.Series) -> Buffers:
    """The buffers of strings; null as empty."""
    found = texts.fill_null("").to_arrow().cast(pa.large_string())
    return buffers(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found)


def arrow(texts: Buffers) -> pa.Array:
    """The same as an Arrow array of `large_string`."""
    return pa.LargeStringArray.from_buffers(texts.documents, pa.py_buffer(texts.offsets), pa.py_buffer(texts.data))
