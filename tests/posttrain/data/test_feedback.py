"""Unpaired feedback: what labels say, in which shapes it comes, what its contract finds, and pairs taken apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from posttrain.data.feedback import COLUMNS, desirable, unpaired
from posttrain.data.kinds import KINDS
from posttrain.data.messages import WrongType
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.feedback import Feedback

Row = dict[str, Any]
GOOD: Row = {"prompt": "What is up?", "completion": "The sky.", "label": True}


def normal(*rows: Row) -> list[Row]:
    return list(KINDS["feedback"].normalise(enumerate(rows, 1), "f", lambda bad: pytest.fail(bad.reason)))


def files(folder: Path, *rows: Row) -> dict[str, list[SourceFile]]:
    path = folder / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"feedback": [SourceFile(path.name, str(path))]}


@pytest.mark.parametrize(
    ("value", "says"),
    [(True, True), (False, False), (1, True), (0, False), (0.0, False), ("true", True), (" False ", False), ("0", False),
     ("good", True), ("undesirable", False), ("thumbs_up", True), ("Rejected", False)],
)  # fmt: skip
def test_what_a_label_says(value, says):
    assert desirable(value) is says


@pytest.mark.parametrize(
    ("value", "code"),
    [(None, "missing_label"), ("", "missing_label"), (float("nan"), "missing_label"), (-1, "unknown_label"), (2, "unknown_label"),
     ("neutral", "unknown_label"), ([True], "unknown_label"), ({}, "unknown_label"), (0.5, "unknown_label")],
)  # fmt: skip
def test_what_is_no_label_is_no_guess(value, code):
    with pytest.raises(WrongType) as caught:
        desirable(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {"prompt": "What is up?", "completion": "The sky.", "kto_tag": True},
        {"prompt": [{"role": "user", "content": "What is up?"}], "completion": [{"role": "assistant", "content": "The sky."}],
         "label": 1},
        {"messages": [{"role": "user", "content": "What is up?"}, {"role": "assistant", "content": "The sky."}], "label": "true"},
        {"conversations": [{"from": "human", "value": "What is up?"}, {"from": "gpt", "value": "The sky."}], "kto_tag": True},
        {"instruction": "What is up?", "input": "", "output": "The sky.", "label": True},
        {"question": "What is up?", "answer": "The sky.", "desirable": True},
    ],
)  # fmt: skip
def test_every_shape_is_one_answer_with_its_label(row):
    (record,) = normal(row)
    assert [message["content"] for message in (*record["prompt"], *record["completion"])] == ["What is up?", "The sky."]
    assert record["label"] is True


def test_columns_that_mean_a_label_are_named_where_there_is_none(tmp_path):
    with pytest.raises(Refusal) as caught:
        validate(files(tmp_path, {"prompt": "a b?", "completion": "c"}), Checks(), 0.1, tmp_path / "out")
    assert "no column says which answers are good" in caught.value.remedy
    with pytest.raises(Refusal) as caught:
        validate(files(tmp_path, {"prompt": "a b?", "chosen": "c", "rejected": "d"}), Checks(), 0.1, tmp_path / "out")
    assert "data.preferences" in caught.value.remedy


def test_one_answer_with_both_labels_is_a_conflict_and_with_the_same_a_duplicate(tmp_path):
    """Of the first three rows the second repeats the first, and the third contradicts both."""
    rows = [GOOD, GOOD, GOOD | {"label": False}, GOOD | {"completion": "Me."}, GOOD | {"prompt": "And?", "label": False}]
    lenient = Checks(max_drop_rate=1, conflict_fail=1, length_bias_fail=1)
    validate(files(tmp_path, *rows), lenient, 0.1, tmp_path / "out")
    quarantine = pl.read_parquet(tmp_path / "out" / "quarantine.parquet")
    assert dict(quarantine.select("row", "reasons").rows()) == {1: ["conflict"], 2: ["duplicate", "conflict"], 3: ["conflict"]}


def test_a_data_set_is_written_with_its_labels_and_bad_rows_are_kept_apart(tmp_path):
    rows = [GOOD | {"prompt": f"What is {n}?", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(40)]
    counts = validate(files(tmp_path, *rows, GOOD | {"label": None}, GOOD | {"label": "meh"}), Checks(), 0.3, tmp_path / "out")
    assert (counts["feedback_rows_in"], counts["feedback_kept"], counts["feedback_quarantined"]) == (42, 40, 2)
    table = Feedback.validate(pl.read_parquet(tmp_path / "out" / "feedback.parquet"))
    assert table["label"].to_list() == [n % 2 == 0 for n in range(40)]
    reasons = pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["reasons"].explode().to_list()
    assert [reason.partition(":")[0] for reason in reasons] == ["missing_label", "unknown_label"]


def test_pairs_taken_apart_have_both_sides_in_the_order_of_the_pairs():
    def said(text: str) -> list[Row]:
        return [{"role": "assistant", "content": text, "extra": None}]

    pairs = pl.DataFrame(
        {"prompt": [said("p0"), said("p1")], "chosen": [said("c0"), said("c1")], "rejected": [said("r0"), said("r1")],
         "source": ["f"] * 2, "row": [1, 2], "score_chosen": [1.0, 2.0], "score_rejected": [0.0, 0.0], "split": ["train"] * 2,
         "extra": [None, None]}
    )  # fmt: skip
    apart = unpaired(pairs)
    assert [each[0]["content"] for each in apart["completion"].to_list()] == ["c0", "r0", "c1", "r1"]
    assert apart["label"].to_list() == [True, False, True, False]
    assert set(apart.columns) == set(COLUMNS)
    assert unpaired(apart) is apart
