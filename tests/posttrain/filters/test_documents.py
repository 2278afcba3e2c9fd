"""What is wrong with a file or a row, said by its name and place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.bounds import LONGEST_ROW
from posttrain.data.sources import SourceFile
from posttrain.filters.corpus import filter_corpus
from posttrain.filters.documents import check_text
from schemas.errors import Refusal
from schemas.filtering import Filtering

ALL = Filtering(preset="none")


@pytest.mark.parametrize(
    ("values", "kind"), [([1, 2, None], "int64"), ([1.5], "double"), ([[1]], "list<item: int64>"), ([True, False], "bool")]
)
def test_a_column_of_another_type_is_named_as_such(tmp_path: Path, values: list[object], kind: str) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"text": values}).write_parquet(path)
    with pytest.raises(Refusal) as caught:
        check_text([SourceFile("x.parquet", str(path))])
    assert caught.value.found == f"text is {kind} in all of the first {len(values)} rows"


def test_a_column_that_starts_with_nulls_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"text": [None] * 30 + ["here"]}).write_parquet(path)
    assert filter_corpus([SourceFile("x.parquet", str(path))], ALL, 0.1, tmp_path / "out")["documents_quarantined"] == 30


def test_a_truncated_gzip_is_refused_with_its_position_and_its_bad_rows_are_kept(tmp_path: Path) -> None:
    rows = ["{broken", *(json.dumps({"text": random.Random(at).randbytes(100).hex()}) for at in range(5_000))]
    whole = gzip.compress("\n".join(rows).encode())
    path, out = tmp_path / "x.jsonl.gz", tmp_path / "out"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal) as caught:
        filter_corpus([SourceFile("x.jsonl.gz", str(path))], ALL, 0.1, out)
    name, row = caught.value.where.split(":")
    assert name == "x.jsonl.gz"
    assert 1_000 < int(row) < 4_000
    assert [file.name for file in out.iterdir()] == ["quarantine.parquet"]
    assert pl.read_parquet(out / "quarantine.parquet").select("row", "value").rows() == [(1, "{broken")]


def test_a_line_that_is_too_long_and_a_null_text_cost_themselves(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("w") as stream:
        stream.write('{"text": "' + "x" * (LONGEST_ROW + 1) + '"}\n{"text": null}\n{"text": "good"}\n')
    numbers = filter_corpus([SourceFile("x.jsonl", str(path))], ALL, 0.1, tmp_path / "out")
    assert (numbers["documents_kept"], numbers["documents_quarantined"]) == (1, 2)
    reasons = pl.read_parquet(tmp_path / "out" / "quarantine.parquet").select("row", "reason").rows()
    assert [(row, reason.split(":")[0]) for row, reason in reasons] == [(1, "line_too_long"), (2, "text_null")]
