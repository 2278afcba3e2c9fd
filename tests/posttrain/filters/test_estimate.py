"""About how many documents: exact for small files and Parquet, close for large ones, none where nothing tells."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters.estimate import expected_documents


def rows(count: int) -> bytes:
    words = random.Random(0)
    return b"".join(json.dumps({"text": words.randbytes(words.randrange(50, 150)).hex()}).encode() + b"\n" for _ in range(count))


@pytest.mark.parametrize(("name", "write"), [("x.jsonl", bytes), ("x.jsonl.gz", gzip.compress)])
@pytest.mark.parametrize("count", [7, 20_000])
def test_lines_are_counted_or_estimated(tmp_path: Path, name: str, write, count: int) -> None:
    """A megabyte has about 4,700 of these rows; a gzip stream is read ahead, which 15% allow for."""
    (tmp_path / name).write_bytes(write(rows(count)))
    found = expected_documents([SourceFile(name, str(tmp_path / name))])
    assert found == pytest.approx(count, rel=0.15)


def test_parquet_tells_and_a_crawl_does_not(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a"] * 12}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.warc").write_bytes(b"WARC/1.0")
    files = [SourceFile(name, str(tmp_path / name)) for name in ("x.parquet", "x.warc")]
    assert expected_documents(files[:1]) == 12
    assert expected_documents(files) == 0
