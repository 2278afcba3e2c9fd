"""What is wrong with a corpus costs itself, or refuses the run by file and place; it never passes in silence."""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from schemas.errors import Refusal
from schemas.filtering import Filtering

ALL = Filtering(preset="none")
REAL = Path(__file__).resolve().parents[3].parent / "shared/data"
MIB = 1 << 20


def run(path: Path, out: Path) -> dict[str, float]:
    return filter_corpus([SourceFile(path.name, str(path))], ALL, 0.1, out)


def quarantined(out: Path) -> list[tuple[str, int, str]]:
    rows = pl.read_parquet(out / "quarantine.parquet").select("file", "row", "reason").rows()
    return [(file, row, reason.split(":")[0]) for file, row, reason in rows]


def with_long_line(path: Path) -> Path:
    """Three lines, of which the second has 200 MB."""
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as stream:
        stream.write(b'{"text": "before"}\n{"text": "')
        for _ in range(200):
            stream.write(b"x" * MIB)
        stream.write(b'"}\n{"text": "behind"}\n')
    return path


def test_a_line_of_200_mb_costs_itself_and_no_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = run(with_long_line(tmp_path / "long.jsonl"), tmp_path / "out")
    assert quarantined(tmp_path / "out") == [("long.jsonl", 2, "line_too_long")]
    assert pl.read_parquet(tmp_path / "out" / "kept.parquet")["text"].to_list() == ["before", "behind"]
    assert (numbers["documents_in"], numbers["documents_kept"]) == (3, 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # kilobytes


def test_one_in_a_small_gzip_is_refused_by_what_it_decodes_to(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"long\.jsonl\.gz"):
        run(with_long_line(tmp_path / "long.jsonl.gz"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.parquet"]


def test_null_and_empty_texts_in_parquet_are_told_by_row(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", None, " \t", "b"]}).write_parquet(tmp_path / "a.parquet")
    assert run(tmp_path / "a.parquet", tmp_path / "out")["documents_kept"] == 2
    assert quarantined(tmp_path / "out") == [("a.parquet", 2, "text_null"), ("a.parquet", 3, "text_empty")]


def rows(count: int) -> bytes:
    rng = random.Random(0)
    return b"".join(json.dumps({"text": f"{n} {rng.random()}"}).encode() + b"\n" for n in range(count))


def test_a_cut_gzip_is_refused_with_the_byte_and_the_row(tmp_path: Path) -> None:
    whole = gzip.compress(rows(5_000))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal) as caught:
        run(tmp_path / "cut.jsonl.gz", tmp_path / "out")
    assert caught.value.where.startswith("cut.jsonl.gz")
    assert re.search(r"\d", caught.value.found)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.parquet"]


def test_a_changed_byte_in_a_gzip_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(rows(5_000)))
    data[len(data) // 2] ^= 255
    (tmp_path / "bad.jsonl.gz").write_bytes(data)
    with pytest.raises(Refusal, match=r"bad\.jsonl\.gz"):
        run(tmp_path / "bad.jsonl.gz", tmp_path / "out")


@pytest.fixture(scope="module")
def crawl() -> bytes:
    pytest.importorskip("fastwarc", reason="the extra warc is not installed")
    path = REAL / "sample-0000.warc.gz"
    if not path.exists():
        pytest.skip("shared/data is not there")
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.31, 0.77])
def test_a_cut_crawl_is_refused_with_record_and_byte(tmp_path: Path, crawl: bytes, share: float) -> None:
    """In the middle of a record: both public readers pass it in silence."""
    (tmp_path / "cut.warc.gz").write_bytes(crawl[: int(share * len(crawl))])
    with pytest.raises(Refusal) as caught:
        run(tmp_path / "cut.warc.gz", tmp_path / "out")
    assert caught.value.where.startswith("cut.warc.gz")
    assert "byte" in caught.value.found
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quarantine.parquet"]


def test_the_crawl_itself_and_both_files_of_common_crawl_filter(tmp_path: Path, crawl: bytes) -> None:
    paths = [*sorted(REAL.glob("cc_en_head-*.jsonl.gz")), REAL / "sample-0000.warc.gz"]
    asked = Filtering.model_validate({"preset": "gopher", "dedup": {"near": "14x8"}, "language": {"min_score": 0.0}})
    found = filter_corpus([SourceFile(path.name, str(path)) for path in paths], asked, 0.1, tmp_path / "out")
    assert found["documents_in"] == sum(found[f"documents_{each}"] for each in ("kept", "rejected", "quarantined"))
    kept = pl.read_parquet(tmp_path / "out" / "kept.parquet")
    assert set(kept["source"]) == {path.name for path in paths}
