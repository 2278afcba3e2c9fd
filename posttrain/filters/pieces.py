"""The documents of finished pieces: found by number, one after the other, or by their texts alone; mapped, not read."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from posttrain.filters.kept_before import DOCUMENTS, place_of
from posttrain.filters.plan import FILE_BITS, Plan
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.text import Places

BATCHES: Final = 4
"""Of `documents.BATCH_CHARACTERS` each, that are decided about together."""


class Pieces:
    """Reads what `shard.annotate_file` wrote."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._files: dict[int, _File] = {}
        self._earlier = plan.earlier

    def tables(self) -> Iterator[pa.Table]:
        """All documents in their order, BATCHES of a file at a time: to decide costs milliseconds, however few they are."""
        for file in range(len(self._plan.files)):
            yield from self.tables_of(file, BATCHES)

    def tables_of(self, file: int, batches: int = 1) -> Iterator[pa.Table]:
        """Those of one file, so many batches at a time."""
        reader = self._file(file)
        for first in range(0, reader.batches, batches):
            yield reader.table(range(first, min(first + batches, reader.batches)))
            reader.forget()

    def texts(self, numbers: Places) -> Buffers:
        """The texts of some documents, in the order of their numbers, which are sorted."""
        return buffers(self._take(numbers, "text").cast(pa.large_string()).combine_chunks())

    def ids(self, numbers: Places) -> list[str]:
        """The identifiers of some documents, likewise."""
        found: list[str] = self._take(numbers, "id").to_pylist()
        return found

    def _take(self, numbers: Places, column: str) -> pa.ChunkedArray:
        chunks = []
        for file in np.unique(numbers >> FILE_BITS).tolist():
            reader = self._file(file)
            chunks += reader.take(numbers[numbers >> FILE_BITS == file], column)
        return pa.chunked_array(chunks, type=pa.large_string() if column == "text" else pa.string())

    def _file(self, file: int) -> _File:
        """The documents of a file, or of a part that an earlier run kept, whose numbers are below 0."""
        if file not in self._files:
            path = self._plan.piece("documents", file, "arrow") if file >= 0 else place_of(file, self._earlier) / DOCUMENTS
            self._files[file] = _File(path)
        return self._files[file]


class _File:
    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._mapped))
        self.batches: int = self._reader.num_record_batches

    def table(self, batches: Iterable[int]) -> pa.Table:
        return pa.Table.from_batches([self._reader.get_batch(batch) for batch in batches])

    def forget(self) -> None:
        """Let go of the pages that were looked at: they count as memory of this process until something else wants it."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def _numbers(self) -> list[Places]:
        return [self._reader.get_batch(at).column("number").to_numpy() for at in range(self.batches)]

    def take(self, numbers: Places, column: str) -> list[pa.Array]:
        """One array for each batch that has some of them."""
        ends = np.searchsorted(numbers, [own[-1] if len(own) else -1 for own in self._numbers], side="right")
        found, start = [], 0
        for at, end in enumerate(ends.tolist()):
            if end > start:
                places = np.searchsorted(self._numbers[at], numbers[start:end])
                found.append(self._reader.get_batch(at).column(column).take(pa.array(places)))
                self.forget()  # each time: candidates stand in all places of a file, which would be in memory as a whole
                start = end
        return found
