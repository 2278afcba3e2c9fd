"""Tables in one JSON object: those whose columns do not have the same rows are refused, and named."""

from __future__ import annotations

import json

import pytest

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

TURN = {"role": "user", "content": "a"}
UNEVEN = {
    "lists": ({"a": ["x", "y"], "b": ["z"]}, "columns of unequal length: `a` has 2, `b` has 1"),
    "lists of texts and of messages": ({"a": ["x"], "b": [[TURN], [TURN]]}, "columns of unequal length: `a` has 1, `b` has 2"),
    "indices": ({"a": {"0": 1, "1": 2}, "b": {"0": 3}}, "columns of unequal length: `a` has 2, `b` has 1"),
    "other indices": (
        {"a": {"0": 1, "1": 2}, "b": {"0": 3, "2": 4}},
        "columns of different rows: `b` has other numbers than `a`",
    ),
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
        list(read_rows(SourceFile("x.json", str(tmp_path / "x.json")), lambda bad: None))
    assert (refusal.value.where, refusal.value.found) == ("x.json", said)
    assert refusal.value.remedy.startswith("write null where a row has none")
