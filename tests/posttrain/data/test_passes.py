"""Rows that wait on disk come back as they were, in their order."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from posttrain.data import passes
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from schemas.data import Checks


@pytest.mark.parametrize("limit", [0, 500, 1 << 20])
def test_waiting_tables_come_back_in_order(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "IN_MEMORY", limit)
    tables = [
        pl.DataFrame({"n": range(10 * at, 10 * at + 10), "text": ["é" * at] * 10, "flag": [None, True] * 5}) for at in range(9)
    ]
    waiting = passes.Waiting(tmp_path)
    for table in tables:
        waiting.add(table)
    assert pl.concat(waiting).equals(pl.concat(tables))
    assert list(tmp_path.iterdir()) == []  # no name of a file that could be left behind


def test_what_is_written_does_not_depend_on_where_rows_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, conflicts, empty answers and a leak, in tables of three rows."""
    lines = [f'{{"prompt": "q {n % 17}", "chosen": "a {n % 5}", "rejected": "a {n % 3}"}}\n' for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(lines) + '{"prompt": "q", "chosen": "", "rejected": "b"}\n{\n')
    monkeypatch.setattr("posttrain.data.collect.CHUNK", 3)
    written = []
    for limit in (0, 1 << 28):
        monkeypatch.setattr(passes, "IN_MEMORY", limit)
        out = tmp_path / str(limit)
        validate({"preferences": [SourceFile("rows.jsonl", str(tmp_path / "rows.jsonl"))]}, LENIENT, 0.3, out)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"preferences.parquet", "quarantine.parquet", "summary.json"}


def test_the_length_of_a_labelled_answer_is_on_the_side_of_its_label() -> None:
    """In characters, not bytes; null on the other side."""
    texts = pl.DataFrame({"completion_text": ["éé", "abc", ""], "label": [True, False, True], "prompt_text": ["p", "q", "r"]})
    assert texts.select(**passes.lengths_of(texts.columns)).to_dict(as_series=False) == {
        "desirable": [2, None, 0], "undesirable": [None, 3, None]
    }  # fmt: skip
    sides = pl.DataFrame({"chosen": [0], "rejected": [0], "chosen_text": ["é"], "rejected_text": ["ab"]})
    assert sides.select(**passes.lengths_of(sides.columns)).rows() == [(1, 2)]


LENIENT = Checks(max_drop_rate=1.0, conflict_fail=1.0, length_bias_fail=1.0)
