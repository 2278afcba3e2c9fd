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


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [], "tags": ["x"]},
        {"messages": [None, TURN], "tools": []},
        {"conversation": [{"input": "a"}, {"input": "b"}], "tags": ["x"]},
        {"scores": {"1": 3, "2": 4}, "votes": {"1": 1}},
    ],
)
def test_a_row_whose_lists_differ_in_length_is_no_table(tmp_path, row):
    """Rows behind it are read as before."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(row, indent=1) + "\n" + json.dumps({"prompt": "q"}, indent=1))
    assert read(path) == [row, {"prompt": "q"}]


def test_tables_within_tables_end_somewhere(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"data":' * 600 + '{"a": ["x"]}' + "}" * 600)
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"columns": [{"name": "a"}], "data": [["x"]]}', "which is no name"),
        ('{"columns": ["a", "a"], "data": [["x", "y"]]}', "a name that comes twice"),
        ('{"train": {"a": ["x"]}, "train": {"a": ["y"]}}', "`train` twice in one object"),
        ('{"a": ["x"], "a": ["y"]}', "`a` twice in one object"),
        ('[{"a": ' + "9" * 5000 + "}]", "a number of over 4,300 digits"),
    ],
)
def test_tables_in_which_rows_would_be_lost_are_refused(tmp_path, written, said):
    path = tmp_path / "x.json"
    path.write_text(written)
    with pytest.raises(Refusal) as refused:
        read(path)
    assert said in str(refused.value)


def test_a_number_of_many_digits_costs_its_row(tmp_path):
    path = tmp_path / "x.jsonl"
    for lines in (['{"a": 9}', '{"a": ' + "9" * 5000 + "}"], ['{"a": ' + "9" * 5000 + "}", '{"a": 9}']):
        path.write_text("\n".join(lines) + "\n")
        bad: list = []
        rows = [row for _, row in read_rows(SourceFile(path.name, str(path)), bad.append)]
        assert (rows, len(bad)) == ([{"a": 9}], 1)


HELD = {"a": "x", "split": "test"}


@pytest.mark.parametrize(
    "table",
    [{"train": [HELD]}, {"train": {"a": ["x"], "split": ["test"]}}, {"train": {"test": [{"a": "x"}]}}, {"train": {"0": HELD}}],
    ids=["rows", "columns", "within", "numbers"],
)
def test_a_row_that_says_it_is_held_out_stays_so_in_a_part_for_training(tmp_path, table):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(table))
    assert read(path) == [HELD]


@pytest.mark.parametrize("columns", [["a", "a"], [["a", "b"], ["a", "c"]]])
def test_columns_without_names_of_their_own_are_told_what_to_do_about_names(tmp_path, columns):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"columns": columns, "data": [[1, 2]]}))
    with pytest.raises(Refusal) as refusal:
        read(path)
    assert refusal.value.remedy == "give each column a name of its own, as text, or write one object a row"
