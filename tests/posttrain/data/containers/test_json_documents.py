"""One JSON object that holds splits, tables or rows in any form: none is lost, and what is no part of the rows is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.containers.json_tables import Look, Table, table_of
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow, read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal
from schemas.reading import Reading

Row = dict[str, Any]
ROWS = [{"prompt": f"Why {at}?", "chosen": f"Since {at}.", "rejected": f"No {at}"} for at in range(3)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
INDEXED = {name: {str(at): value for at, value in enumerate(column)} for name, column in COLUMNS.items()}
NUMBERED = {str(at): row for at, row in enumerate(ROWS)}
SPLIT = {"columns": list(COLUMNS), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}
FORMS: dict[str, Any] = {
    "rows": ROWS,
    "columns": COLUMNS,
    "columns by index": INDEXED,
    "rows by index": NUMBERED,
    "names of columns": SPLIT,
    "rows inside data": {"version": 1, "data": ROWS},
    "one row": ROWS[0],
    "an empty list": [],
    "an empty object": {},
    "null": None,
}


def count(form: str) -> int:
    return 1 if form == "one row" else 0 if "empty" in form or form == "null" else len(ROWS)


def read(path: Path, kind: str = "preferences", reading: Reading = Reading()) -> tuple[list[Row], list[BadRow], list[str]]:  # noqa: B008
    bad: list[BadRow] = []
    notes: list[str] = []
    known, fits = KINDS[kind].known(reading), KINDS[kind].fits(reading)
    file = SourceFile(path.name, str(path), reading=reading)
    rows = [row for _, row in read_rows(file, bad.append, known=known, fits=fits, note=notes.append)]
    return rows, bad, notes


def read_text(folder: Path, text: str, kind: str = "preferences") -> tuple[list[Row], list[BadRow], list[str]]:
    (folder / "x.json").write_text(text)
    return read(folder / "x.json", kind)


@pytest.mark.parametrize(("train", "test"), list(itertools.product(FORMS, FORMS)))
def test_splits_of_any_two_forms_are_both_read(tmp_path: Path, train: str, test: str) -> None:
    for indent in (None, 1):
        rows, bad, _ = read_text(tmp_path, json.dumps({"train": FORMS[train], "test": FORMS[test]}, indent=indent))
        expected = [(row, split) for split, form in (("train", train), ("test", test)) for row in ROWS[: count(form)]]
        found = [({name: value for name, value in row.items() if name != "split"}, row["split"]) for row in rows]
        assert (sorted(found, key=str), bad) == (sorted(expected, key=str), [])


@pytest.mark.parametrize("form", [form for form in FORMS if count(form) > 1])
def test_a_table_inside_data_is_read_and_so_are_splits_there(tmp_path: Path, form: str) -> None:
    assert read_text(tmp_path, json.dumps({"data": FORMS[form]}))[0] == ROWS
    inside = {"data": {"train": FORMS[form], "test": ROWS[:1]}}
    assert [row["split"] for row in read_text(tmp_path, json.dumps(inside))[0]] == ["train"] * 3 + ["test"]


def test_elements_of_a_split_that_are_no_objects_cost_themselves(tmp_path: Path) -> None:
    rows, bad, _ = read_text(tmp_path, json.dumps({"train": [None, ROWS[0]], "test": {"0": ROWS[1], "1": "x"}}))
    assert len(rows) == 2
    assert [(each.row, each.code, each.value) for each in bad] == [(1, "not_an_object", "null"), (4, "not_an_object", '"x"')]


def test_rows_as_lists_without_names_are_refused_beside_others(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="`train` with lists in the place of rows"):
        read_text(tmp_path, json.dumps({"train": [["q", "a", "b"]], "test": ROWS}))


@pytest.mark.parametrize(
    "first", [{"messages": []}, {"data": []}, {"train": {}}, {"data": None}, {"a": [], "b": []}, {"test": ROWS[0]}]
)
def test_a_first_object_before_others_is_a_row_and_never_nothing(tmp_path: Path, first: Row) -> None:
    written = json.dumps(first, indent=1) + "\n" + json.dumps(ROWS[0], indent=1)
    assert read_text(tmp_path, written) == ([first, ROWS[0]], [], [])


def test_objects_over_lines_behind_one_in_a_line_are_rows(tmp_path: Path) -> None:
    assert read_text(tmp_path, json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1], indent=1))[0] == ROWS[:2]
    rows, bad, _ = read_text(tmp_path, json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "x\n")
    assert (rows, [each.row for each in bad]) == (ROWS[:1], [2])


BESIDE: dict[str, tuple[Row, str]] = {
    "an object": ({"metadata": {"a": 1}}, "metadata"),
    "a number": ({"version": 2}, "version"),
    "text": ({"license": "MIT", "name": "x"}, "license, name"),
    "null": ({"score_chosen": None}, ""),
    "null and a number": ({"notes": None, "version": 2}, "version"),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("form", ["columns", "columns by index", "rows by index", "names of columns"])
def test_a_table_with_something_beside_it_is_a_table(tmp_path: Path, form: str, beside: str) -> None:
    fields, said = BESIDE[beside]
    notes = [f"x.json: {said} beside the rows is not read"] if said else []
    assert read_text(tmp_path, json.dumps(FORMS[form] | fields)) == (ROWS, [], notes)
    inner = [note.replace("json: ", "json: train.").replace(", ", ", train.") for note in notes]
    rows, _, told = read_text(tmp_path, json.dumps({"train": FORMS[form] | fields}))
    assert (rows, told) == ([row | {"split": "train"} for row in ROWS], inner)
    rows, _, told = read_text(tmp_path, json.dumps({"train": FORMS[form]} | fields))
    assert (rows, told) == ([row | {"split": "train"} for row in ROWS], notes)


def test_what_rows_are_made_of_is_theirs_where_it_stands_once(tmp_path: Path) -> None:
    """As a prompt of the system for all; a column beside `columns` and `data` is one, and told of as every other."""
    rows, _, notes = read_text(tmp_path, json.dumps(COLUMNS | {"system": "Be brief.", "split": "test", "version": 1}))
    assert rows == [{"system": "Be brief.", "split": "test"} | row for row in ROWS]
    assert notes == ["x.json: version beside the rows is not read"]
    more = {"label": [1, 0, 1], "weight": 2, "topic": ["a", "b", "c"], "tags": ["x"]}
    rows, _, notes = read_text(tmp_path, json.dumps(SPLIT | more))
    assert rows == [
        {"weight": 2} | row | {"label": at, "topic": topic} for row, at, topic in zip(ROWS, (1, 0, 1), "abc", strict=True)
    ]
    assert notes == ["x.json: tags beside the rows is not read"]
    with pytest.raises(Refusal, match="`label` with 2 values beside 3 rows"):
        read_text(tmp_path, json.dumps(SPLIT | {"label": [1, 0]}))
    named = SPLIT | {"index": ["x", "y", "z"]}
    assert [row["index"] for row in read_text(tmp_path, json.dumps(named))[0]] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "d"]}),
        ("preferences", {"prompt": "q", "answers": ["a", "b"], "scores": [1, 2]}),
        ("preferences", {"prompt": ["q", "r"], "response_a": ["a", "b"], "response_b": ["c", "d"], "winner_model_a": 1,
                         "winner_model_b": 0}),
        ("instructions", {"messages": [{"role": "user", "content": "q"}], "tags": ["a", "b"], "id": 1}),
        ("instructions", {"prompt": "q", "completion": "a", "items": [{"a": 1}], "data": {"x": [1, 2]}}),
        ("instructions", {"prompt": "q", "completion": "a", "scores": {"0": 1}, "test": {"inputs": ["x"], "outputs": []}}),
        ("instructions", {"ask": "q", "completion": ["a", "b"]}),
        ("instructions", {"prompt": ["a", "b"], "completion": "c"}),
        ("preferences", {"data": {"prompt": "q", "chosen": "a", "rejected": "b"}, "id": 1}),
    ],
)  # fmt: skip
def test_a_row_with_lists_stays_a_row(tmp_path: Path, kind: str, row: Row) -> None:
    """It is one if something can be made of it, or nothing of the rows that it would hold."""
    assert read_text(tmp_path, json.dumps(row), kind) == ([row], [], [])


def test_columns_that_the_recipe_names_inside_a_split_are_found(tmp_path: Path) -> None:
    row = {"train": {"ask": "q", "good": "a", "bad": "b"}}
    (tmp_path / "x.json").write_text(json.dumps(row))
    named = Reading(columns={"prompt": "train.ask", "chosen": "train.good", "rejected": "train.bad"})
    assert read(tmp_path / "x.json", reading=named)[0] == [row]
    assert read(tmp_path / "x.json")[0] == [row["train"] | {"split": "train"}]


@pytest.mark.parametrize("table", [COLUMNS | {"tags": []}, INDEXED | {"tags": {}}, COLUMNS | {"tags": [], "version": 1}])
def test_a_column_without_values_is_refused_and_named(tmp_path: Path, table: Row) -> None:
    with pytest.raises(Refusal, match="columns of unequal length: `prompt` has 3, `tags` has 0") as refused:
        read_text(tmp_path, json.dumps(table))
    assert "leave out columns without values" in refused.value.remedy


def test_the_refusal_of_many_columns_is_short(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        read_text(tmp_path, json.dumps({f"c{at}" * (1 + 999 * (at == 1)): [1] * (1 + at % 2) for at in range(5_000)}))
    assert "`c0` has 1, `c1c1" in refused.value.found
    assert refused.value.found.endswith(", and 2,495 more have another number than the first")
    assert len(refused.value.found) < 300


def test_nobody_to_ask_leaves_mixed_objects_rows() -> None:
    assert table_of(COLUMNS | {"version": 1}, Look()) is None
    assert table_of({"train": COLUMNS, "license": "MIT"}, Look()) is None
    assert table_of({"train": {}, "test": None}, Look()) == Table([])
