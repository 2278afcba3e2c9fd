"""The page of `posttrain validate`: what was found, rows that show it, and nothing of them that a browser would obey."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from posttrain.report.validation import write_validation
from schemas.data import Checks
from schemas.errors import Refusal

ROWS = [
    *({"prompt": f"q {n}", "chosen": "a" * (1 + n % 2 * 20), "rejected": "b" * 9} for n in range(6)),
    {"prompt": "<script>alert(1)</script>", "chosen": "", "rejected": "<b>b</b>"},
]
TOKENS = {
    "rows": 6, "measured": 6, "limit": 20, "over_limit_share": 0.5, "mean": 12.0, "max": 30,
    "histogram": {"edges": [0, 16, 32], "tokens": [3, 3]},
}  # fmt: skip


def page(folder: Path, checks: Checks) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    refusal = None
    try:
        validate({"preferences": [SourceFile("rows.jsonl", str(folder / "rows.jsonl"))]}, checks, 0.1, folder)
    except Refusal as error:
        refusal = error
    return write_validation(folder, {"preferences": TOKENS}, refusal).read_text()


def test_a_page_of_accepted_rows(tmp_path: Path) -> None:
    text = page(tmp_path, Checks())
    assert "preferences: 6 of 7 rows kept" in text
    assert "<code>rows.jsonl:7</code>" in text
    assert "12 on average, at most 30; 50% of rows above 20" in text
    assert text.count("<svg") == 3  # the way of the rows, lengths, tokens
    for said in ("characters (each bin twice as wide", "tokens (each bin twice as wide", ">rows<", "limit 20"):
        assert said in text


def test_texts_of_rows_are_no_markup(tmp_path: Path) -> None:
    text = page(tmp_path, Checks())
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize("waive", [(), ("max_drop_rate",)])
def test_a_refusal_stands_at_the_top(tmp_path: Path, waive: tuple) -> None:
    text = page(tmp_path, Checks(max_drop_rate=0.1, waive=waive))
    assert ("14.29% rows dropped" in text) == (not waive)
    assert ("<b>refused</b>" in text) == (not waive)
