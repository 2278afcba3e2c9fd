"""A Parquet file that is written table after table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import polars as pl
import pyarrow.parquet as pq

GROUP: Final = 1 << 16  # rows of a group, or as many as come at once
LEVEL: Final = 1  # of zstd: a third quicker than 3, for a fifth more bytes


class TableFile:
    """Open while rows come in; complete, with a footer, when it is closed.

    Args:
        path: of the file.
        schema: names and types of the columns.
    """

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> None:
        self._empty = pl.DataFrame(schema=dict(schema))
        found = self._empty.to_arrow().schema
        # Texts rarely come twice: a dictionary of them is built in vain, but for those that say where a row is from.
        often = [name for name in ("source", "file", "split") if name in found.names]
        self._writer = pq.ParquetWriter(path, found, compression="zstd", compression_level=LEVEL, use_dictionary=often)
        self.rows = 0
        self._held, self._count = [self._empty], 0

    def write(self, table: pl.DataFrame) -> None:
        """More rows, whose columns may come in another order."""
        self._held.append(table.select(self._empty.columns))
        self._count += table.height
        self.rows += table.height
        if self._count >= GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pl.concat(self._held).to_arrow(), row_group_size=max(1, self._count))
        self._held, self._count = [self._empty], 0

    def __enter__(self) -> TableFile:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Complete the file, whatever happened."""
        self._flush()
        self._writer.close()
