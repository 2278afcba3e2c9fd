"""The tables of numbers: their form, and that the head's errors are what the issue of half precision was about."""

from __future__ import annotations

import json

import pytest

from bench import numbers_head
from bench.numbers import main, markdown


def test_a_table_as_markdown():
    rows = [{"vocabulary": 8192, "head": "ours", "error": 0.000123}, {"vocabulary": 97, "head": "theirs", "error": 0.5}]
    lines = ["## Title", "", "| vocabulary | head | error |", "| --- | --- | --- |", "| 8,192 | ours | 0.00012 |"]
    assert markdown("Title", rows).splitlines() == [*lines, "| 97 | theirs | 0.5 |"]


def test_our_errors_are_those_of_fp32_logits_or_less_and_far_below_those_of_rounded_ones(monkeypatch, capsys):
    monkeypatch.setattr(numbers_head.table, "__defaults__", ((2048,),))
    main(["head"])
    rows = json.loads(capsys.readouterr().out)["head"]
    for dtype in ("bfloat16", "float16"):
        error = {row["head"]: row["mean error"] for row in rows if row["arithmetic"] == dtype}
        assert error["ours"] <= error["fp32 logits"] < error["transformers"] / 20
    assert all(row["share above 0"] == 0 for row in rows if row["head"] == "ours")


def test_an_unknown_table_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])
    assert "head" in capsys.readouterr().err
