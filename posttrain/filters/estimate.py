"""About how many documents some files hold, by the first megabyte of each: so that progress can say when a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.bounds import MIB, Counted
from posttrain.data.containers.rows import BrokenStream
from posttrain.data.containers.streams import decompressed
from posttrain.data.sources import SourceFile, kind_of
from posttrain.filters.plan import state
from schemas.errors import Refusal

LOOKED_AT: Final = 20  # files; the others are taken to be like these
BY_LINES: Final = (".jsonl", ".ndjson")


def expected_documents(files: Sequence[SourceFile]) -> int:
    """The estimate, or 0 where the files do not tell: a crawl, or one large JSON array."""
    some = files[:: max(1, -(-len(files) // LOOKED_AT))]
    counts = [_documents(file) for file in some]
    if 0 in counts:
        return 0
    looked_at = sum(state(file.url)[0] for file in some)
    return round(sum(counts) * sum(state(file.url)[0] for file in files) / max(looked_at, 1))


def _documents(file: SourceFile) -> int:
    kind, _ = kind_of(file.url)
    try:
        with fsspec.open(file.url, "rb") as stream:
            if kind == ".parquet":
                return int(pq.ParquetFile(stream).metadata.num_rows)
            return _lines(stream, state(file.url)[0]) if kind in BY_LINES else 0
    except (OSError, pa.ArrowException, BrokenStream, Refusal):  # whoever reads it says so
        return 0


def _lines(stored: object, size: int) -> int:
    """Line breaks of the first megabyte, for each stored byte that this took, times all of these."""
    taken = 0

    def count(read: int) -> None:
        nonlocal taken
        taken += read

    text, _ = decompressed("", Counted(stored, count))  # type: ignore[arg-type]
    head = text.read(MIB)
    return round(max(1, head.count(b"\n")) * (size / taken if taken and len(head) == MIB else 1))
