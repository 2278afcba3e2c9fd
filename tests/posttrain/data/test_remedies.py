"""What is said of rows that have no shape: by what most of them hold, and so that following it works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.collect import collect
from posttrain.data.kinds import KINDS
from posttrain.data.remedies import readable
from posttrain.data.shapes import Tally
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal
from schemas.reading import AS_READ, Reading

Row = dict[str, Any]
PAIRS = [{"prompt": f"q{at}", "chosen": f"a{at}", "rejected": f"b{at}"} for at in range(3)]
LISTS = {name: [row[name] for row in PAIRS] for name in PAIRS[0]}
APART = "write each as a row of its own, one object a line"


def collected(path: Path, kind: str, reading: Reading = AS_READ) -> tuple[int, int]:
    """Rows kept and rows that are not."""
    table, bad, _ = collect(KINDS[kind], [SourceFile(path.name, str(path), reading=reading)])
    return table.height, len(bad)


def refused(folder: Path, rows: list[Row], kind: str = "preferences") -> Refusal:
    path = folder / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, *([] if len(rows) > 1 else rows)])) + "\n")
    with pytest.raises(Refusal) as refusal:
        collected(path, kind)
    return refusal.value


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"id": 1, "of": PAIRS[0]}),
        ("preferences", {"page": {"row": PAIRS[0]}}),
        (
            "instructions",
            {"id": 1, "talk": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}},
        ),
        ("instructions", {"x": {"question": "q", "answer": "a", "topic": "t"}, "y": {"topic": "z"}}),
    ],
)
def test_following_the_remedy_for_columns_in_an_object_reads_all_rows(tmp_path: Path, kind: str, row: Row) -> None:
    said = refused(tmp_path, [row], kind).remedy
    found = re.search(r"name them in columns: \{(.*)\}", said)
    assert found, said
    columns = dict(each.split(": ") for each in found[1].split(", "))
    assert collected(tmp_path / "x.jsonl", kind, Reading(columns=columns)) == (2, 0)


@pytest.mark.parametrize(
    ("rows", "inside"),
    [
        ([{"a1": PAIRS[0], "a2": PAIRS[1]}], "`a1`, `a2`"),
        ([{"train": PAIRS[0], "test": PAIRS[1]}], "`train`, `test`"),
        ([{"foo": PAIRS}], "`foo`"),
        ([{"foo": PAIRS[:2], "bar": PAIRS}], "`foo`, `bar`"),
        ([{"foo": LISTS, "id": 3}], "`foo`"),
        ([{"foo": {"x": PAIRS[:1]}}], "`foo`"),
        ([{"title": "t", "parts": [{"about": "x", "pairs": PAIRS}]}], "`parts`"),
    ],
)
def test_several_rows_in_one_are_to_be_written_apart(tmp_path: Path, rows: list[Row], inside: str) -> None:
    """To name the columns of one would lose the others."""
    assert refused(tmp_path, rows).remedy == f"there are rows inside {inside}: {APART}"


def test_questions_in_lists_of_lists_are_rows_too(tmp_path: Path) -> None:
    answers = [{"text": "a", "answer_start": 1}]
    row = {"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": answers}]}]}
    assert refused(tmp_path, [row], "instructions").remedy == f"there are rows inside `paragraphs`: {APART}"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"foo": 1}, {"of": PAIRS[0]}, {"of": PAIRS[1]}], "of 2 of 3 rows: the columns are inside `of`"),
        ([{"of": None}, {"of": PAIRS[0]}], "of 1 of 2 rows: the columns are inside `of`"),
        ([{"foo": 1}, {"prompt": "q", "completion": "a"}], "of 1 of 2 rows: these rows have one answer each"),
        (
            [{"of": PAIRS[0]}, {"prompt": "q", "answer": "a"}, {"prompt": "q", "answer": "b"}],
            "of 2 of 3 rows: these rows have one",
        ),
        ([{"foo": at} for at in range(9)] + [{"foo": {"bar": PAIRS[0]}}], "of 1 of 10 rows: the columns are inside `foo.bar`"),
    ],
)
def test_the_rows_that_say_most_are_heard_and_not_only_the_first(tmp_path: Path, rows: list[Row], said: str) -> None:
    assert refused(tmp_path, rows).remedy.startswith(said)


def test_a_name_with_a_dot_cannot_be_followed(tmp_path: Path) -> None:
    assert refused(tmp_path, [{"a.b": PAIRS[0]}]).remedy == "the columns are inside `a.b`: write them in the row itself"


def test_columns_that_hold_nothing_are_called_so(tmp_path: Path) -> None:
    assert (
        refused(tmp_path, [{"foo": {}}, {"foo": None, "bar": []}]).remedy
        == "name a file that holds rows: these columns hold nothing"
    )
    assert "inside" not in refused(tmp_path, [{"foo": {}, "x": "y"}]).remedy


def test_many_and_long_names_are_cut(tmp_path: Path) -> None:
    refusal = refused(tmp_path, [{f"c{at}": at for at in range(5_000)} | {"d" * 5_000: 1}])
    assert refusal.found.endswith("c29, and 4,971 more")
    assert len(refused(tmp_path, [{"d" * 5_000: 1}]).found) < 100
    path = tmp_path / "y.jsonl"
    path.write_text("\n".join(map(json.dumps, [PAIRS[0], {f"c{at}": at for at in range(5_000)}])))
    _, (bad,), _ = collect(KINDS["preferences"], [SourceFile("y", str(path))])
    assert bad.reason.endswith("c29, and 4,970 more")


def test_many_columns_that_are_not_read_are_one_sentence() -> None:
    tally = Tally()
    tally.unread.update({f"c{at}": 1 for at in range(500)})
    assert len(tally.sentences()) == 21
    assert tally.sentences()[-1].startswith("480 more columns are not read")
    assert len(tally.as_json(1)["unread_columns"]) == 500


def test_rows_are_readable_where_something_can_be_made_of_them() -> None:
    shapes = KINDS["preferences"].shapes
    assert readable(shapes, PAIRS[0], AS_READ)
    assert not readable(shapes, LISTS, AS_READ)
    assert not readable(shapes, {"ask": "q", "chosen": ["a"], "rejected": 3}, AS_READ)
    assert readable(shapes, {"ask": "q", "chosen": "a", "rejected": "b"}, Reading(columns={"prompt": "ask"}))
    steered = {"prompt": "q", "response": "a", "helpfulness": 3}
    assert readable(shapes, steered, AS_READ)
    assert not readable(shapes, steered | {"response": ["a"]}, AS_READ)


@pytest.mark.parametrize(
    ("kind", "row", "remedy", "columns"),
    [
        (
            "preferences",
            {"prompt": "q", "best": "a", "worst": "b"},
            "add `chosen`, `rejected`, or name yours in columns, as {chosen: yours, rejected: yours}",
            {"chosen": "best", "rejected": "worst"},
        ),
        (
            "preferences",
            {"instruction": "q", "won": "a", "lost": "b"},
            "add `chosen`, `rejected`, or name yours in columns, as {chosen: yours, rejected: yours}",
            {"chosen": "won", "rejected": "lost"},
        ),
        (
            "preferences",
            {"prompt": "q", "accepted": "a", "rejected": "b"},
            "add `chosen`, or name yours in columns, as {chosen: yours}",
            {"chosen": "accepted"},
        ),
        (
            "preferences",
            {"prompt": "q", "response_a": "a", "response_b": "b", "preference": "B"},
            "add `winner`, or name yours in columns, as {winner: yours}",
            {"winner": "preference"},
        ),
        (
            "instructions",
            {"prompt": "q", "solution": "a", "system": "s"},
            "add `completion`, or name yours in columns, as {completion: yours}",
            {"completion": "solution"},
        ),
    ],
)
def test_columns_of_other_names_are_to_be_named(
    kind: str, row: dict[str, Any], remedy: str, columns: dict[str, str], tmp_path: Path
) -> None:
    """A ranking needs fewer columns than a pair, and is not what rows with a prompt and two answers were meant to be."""
    assert refused(tmp_path, [row], kind).remedy == remedy
    rows = KINDS[kind].normalise([(1, row)], "f.jsonl", lambda bad: None, Reading(columns=columns))
    assert len(list(rows)) == 1


def test_functions_are_tools_by_an_older_name() -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "functions": [{"name": "f"}]}
    with pytest.raises(Refusal, match="`functions` in 1 rows: the answers call them"):
        list(KINDS["instructions"].normalise([(1, row)], "f.jsonl", lambda bad: None))
    (record,) = KINDS["instructions"].normalise([(1, row)], "f.jsonl", lambda bad: None, Reading(columns={"tools": "functions"}))
    assert "extra" in record["prompt"][0]
