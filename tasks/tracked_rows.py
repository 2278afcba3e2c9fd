"""Which rows of a stage MLflow gets: the store is private to whoever holds its folder, a tracking server is read by many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import polars.selectors as cs

from schemas.recipe import Tracking

TABLES = ("quarantine.parquet", "samples.parquet")
ROWS = 100  # of a sample
CHARACTERS = 2000  # of each of its texts


@contextmanager
def table_to_log(path: Path, tracking: Tracking) -> Iterator[Path | None]:
    """The file that stands for a table of rows in MLflow, with its name: itself, some rows with their texts cut, or none."""
    if tracking.rows == "none":
        yield None
    elif tracking.rows == "all":
        yield path
    else:
        with tempfile.TemporaryDirectory() as scratch:
            _some(pl.scan_parquet(path, glob=False)).write_parquet(Path(scratch) / path.name)
            yield Path(scratch) / path.name


def _some(table: pl.LazyFrame) -> pl.DataFrame:
    """At most `ROWS` rows at even distances, since the first ones would all be of one data set or file."""
    rows = table.select(pl.len()).collect().item()
    few = table.gather_every(-(-rows // ROWS) or 1)
    return few.with_columns(cs.string().str.slice(0, CHARACTERS)).collect()
