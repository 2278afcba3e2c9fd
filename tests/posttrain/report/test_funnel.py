"""The picture of the data on its way to training."""

from __future__ import annotations

import re

from posttrain.report.funnel import documents, rows

SPLIT = {"train": 6, "holdout": 1}


def _labels(svg: str) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def test_reasons_stand_in_order_with_counts_and_shares() -> None:
    """10 in, 7 kept, 2 + 1 rejected: 70%, 20%, 10%."""
    reasons = {"b": 1, "a": 2, "c": 0}
    (chart,) = documents({"documents_in": 10, "kept": 7, "rejected": 3, "quarantined": 0, "reasons": reasons, **SPLIT})
    assert _labels(chart.svg) == "documents in 10  (100%) kept 7  (70%) a 2  (20%) b 1  (10%)"
    assert chart.note == "Rows, and their share of those that came in. 6 to train on, 1 held out."


def test_rows_with_several_reasons_are_announced() -> None:
    """3 rejected documents with 5 reasons between them."""
    (chart,) = documents({"documents_in": 10, "kept": 7, "rejected": 3, "quarantined": 0, "reasons": {"a": 3, "b": 2}, **SPLIT})
    assert "several reasons" in chart.note


def test_many_reasons_end_in_a_rest() -> None:
    """12 reasons of 1 row: nine by name, three in the rest."""
    reasons = {f"r{i:02}": 1 for i in range(12)}
    (chart,) = documents({"documents_in": 19, "kept": 7, "rejected": 12, "quarantined": 0, "reasons": reasons, **SPLIT})
    assert "r08 1" in _labels(chart.svg)
    assert "r09" not in chart.svg
    assert "3 more reasons 3" in _labels(chart.svg)


def test_warnings_take_nothing_away() -> None:
    checks = [{"check": "empty", "severity": "drop", "count": 1}, {"check": "length_bias", "severity": "warn", "count": 9}]
    (chart,) = rows("preferences", {"rows_in": 8, "kept": 7, "quarantined": 1, "checks": checks, **SPLIT})
    assert "empty 1" in _labels(chart.svg)
    assert "length_bias" not in chart.svg


def test_no_rows_at_all() -> None:
    (chart,) = rows("instructions", {"rows_in": 0, "kept": 0, "quarantined": 0, "checks": [], "train": 0, "holdout": 0})
    assert "instructions in 0" in _labels(chart.svg)


def test_rows_that_a_stage_left_out_stand_behind_those_that_it_read() -> None:
    """8 in, 7 kept, 6 to train on: 4 examples and 2 left out, each a share of what came in."""
    read = {
        "align": {"rows": 6, "examples": 4, "left_out": 2, "reasons": {"too long": 2}},
        "reward": {"rows": 6, "examples": 6, "left_out": 0, "reasons": {}},
    }
    (chart,) = rows("preferences", {"rows_in": 8, "kept": 7, "quarantined": 1, "checks": [], **SPLIT}, read)
    assert (
        _labels(chart.svg)
        == "preferences in 8  (100%) kept 7  (87.5%) read by align 4  (50%) left out by align: too long 2  (25%)"
    )
