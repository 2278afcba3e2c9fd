"""Tables in one JSON object: those whose columns do not have the same rows are refused, and named."""

from __future__ import annotations

import json

import pytest

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

TURN = {"role": "user", "content": "a"}


def read(path) -> list[dict]:
    return [row for _, row in read_rows(SourceFile(path.name, str(path)), lambda bad: None)]


def test_tables_inside_an_object_are_rows(tmp_path):
    """As `datasets` gives its splits, and by index; an object of other names is one row."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"train": {"a": ["x", "y"], "b": ["z", "z"]}, "test": {"a": {"0": "w"}, "b": {"0": "z"}}}))
    train = [{"a": "x", "b": "z", "split": "train"}, {"a": "y", "b": "z", "split": "train"}]
    assert read(path) == [*train, {"a": "w", "b": "z", "split": "test"}]
    path.write_text(json.dumps({"data": {"a": ["x", "y"]}}))
    assert read(path) == [{"a": "x"}, {"a": "y"}]
    for row in ({"row": {"a": ["x", "y"]}}, {"data": {"chosen": [TURN], "rejected": [TURN]}}, {"data": {"a": "x"}}):
        path.write_text(json.dumps(row))
        assert read(path) == [row]


UNEVEN = {
    "lists": ({"a": ["x", "y"], "b": ["z"]}, "columns of unequal length: `a` has 2, `b` has 1"),
    "lists of texts and of messages": ({"a": ["x"], "b": [[TURN], [TURN]]}, "columns of unequal length: `a` has 1, `b` has 2"),
    "indices": ({"a": {"0": 1, "1": 2}, "b": {"0": 3}}, "columns of unequal length: `a` has 2, `b` has 1"),
    "other indices": (
        {"a": {"0": 1, "1": 2}, "b": {"0": 3, "2": 4}},
        "columns of different rows: `b` has other numbers than `a`",
    ),
    "of a split": ({"train": {"a": ["x"]}, "test": {"a": ["x"], "b": []}}, "columns of unequal length: `a` has 1, `b` has 0"),
    "names and rows": (
        {"columns": ["a", "b"], "data": [[1, 2], [3]]},
        "`columns` with 2 names, and a row of `data` with 1 values",
    ),
}


@pytest.mark.parametrize("table", UNEVEN)
def test_columns_without_the_same_rows_are_refused(tmp_path, table):
    """Taken for one row, it would be said to have the wrong types."""
    fields, said = UNEVEN[table]
    (tmp_path / "x.json").write_text(json.dumps(fields))
    with pytest.raises(Refusal) as refusal:
        read(tmp_path / "x.json")
    assert (refusal.value.where, refusal.value.found) == ("x.json", said)
    assert refusal.value.remedy.startswith("write null where a row has none")
