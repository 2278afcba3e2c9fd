"""One data set in every shape that people publish gives one table; and what is said of columns that no shape reads."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.collect import collect
from posttrain.data.explain import shapes_table
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal
from schemas.reading import Reading
from tests.posttrain.data.rows_in_shapes import PAIRS, TALKS, TRIPLES, Row, bot, parts, user

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"


def normalised(kind: str, rows: list[Row], reading: Reading = Reading()) -> tuple[list[Row], list[str], Tally]:  # noqa: B008
    bad: list[BadRow] = []
    tally = Tally()
    found = list(KINDS[kind].normalise(enumerate(rows, 1), "f.jsonl", bad.append, reading, tally))
    assert tally.taken + len(bad) == len(rows)
    return found, [each.reason for each in bad], tally


def sides(record: Row) -> tuple[str, str]:
    return record["chosen"][0]["content"], record["rejected"][0]["content"]


@pytest.mark.parametrize("shape", PAIRS)
def test_pairs_in_every_shape_are_one_table(shape: str) -> None:
    found, bad, _ = normalised("preferences", [PAIRS[shape](*triple) for triple in TRIPLES])
    times = 3 if shape == "prompt in front" else 1
    assert bad == []
    assert [(r["prompt"], r["chosen"], r["rejected"], r["row"]) for r in found] == [
        ([user(q * times)], [bot(c)], [bot(r)], row) for row, (q, c, r) in enumerate(TRIPLES, 1)
    ]
    assert all((r["score_chosen"] or 0) >= (r["score_rejected"] or 0) for r in found if "score_chosen" in r)


@pytest.mark.parametrize("shape", TALKS)
def test_conversations_in_every_shape_are_one_table(shape: str) -> None:
    found, bad, _ = normalised("instructions", [TALKS[shape](q, a) for q, a, _ in TRIPLES])
    assert bad == []
    assert [(r["prompt"], r["completion"]) for r in found] == [([user(q)], [bot(a)]) for q, a, _ in TRIPLES]


def test_every_shape_of_the_tables_is_tried_here() -> None:
    """A shape that no row above takes is dead, or hidden behind another."""
    taken = {name: Tally() for name in KINDS}
    for make in PAIRS.values():
        taken["preferences"].shapes += normalised("preferences", [make(*TRIPLES[0])])[2].shapes
    for make_talk in TALKS.values():
        taken["instructions"].shapes += normalised("instructions", [make_talk(*TRIPLES[0][:2])])[2].shapes
    taken["preferences"].shapes += normalised("preferences", STEERED)[2].shapes
    taken["preferences"].shapes += normalised("preferences", [{"query": "q", "chosen": "a", "rejected": "b"}])[2].shapes
    for name in ("preferences", "instructions"):  # of prompts: test_prompts.py
        kind = KINDS[name]
        assert set(taken[name].shapes) == {shape.name for shape in kind.shapes}


STEERED = [
    {"prompt": prompt, "response": f"{prompt}{mark}", "helpfulness": mark}
    for prompt, marks in (("a", (1, 4, 2)), ("b", (3,)), ("c", (0, 2)))
    for mark in marks
]


def test_neighbouring_rows_of_a_prompt_make_its_pairs() -> None:
    """a: 4 over 1, with 2 between; b has one answer; c: 2 over 0. Adjacent: 4 over 2, and 2 over 1, for a."""
    found, bad, tally = normalised("preferences", STEERED)
    assert [(r["chosen"][0]["content"], r["rejected"][0]["content"], r["row"]) for r in found] == [
        ("a4", "a1", 1),
        ("c2", "c0", 5),
    ]
    assert bad == ["unpaired: the prompt has one response with a mark, and a pair needs two"]
    assert any(sentence.startswith("1 prompts have answers between") for sentence in tally.sentences())
    found, _, _ = normalised("preferences", STEERED, Reading(ranking="adjacent"))
    assert [sides(r) for r in found] == [("a4", "a2"), ("a2", "a1"), ("c2", "c0")]


def test_rankings_pair_neighbours_or_the_ends_and_skip_ties() -> None:
    row = {"prompt": "q", "responses": ["a", "b", "c", "d"], "scores": [1, 5, 5, 3]}
    pairs = {
        ranking: [sides(r) for r in normalised("preferences", [row], reading)[0]]
        for ranking, reading in (("ends", Reading()), ("adjacent", Reading(ranking="adjacent")))
    }
    assert pairs == {"ends": [("b", "a")], "adjacent": [("b", "d"), ("d", "a")]}


def test_the_shorter_list_of_answers_starts_again() -> None:
    found, _, _ = normalised("preferences", [{"prompt": "q", "chosen": ["a", "b"], "rejected": ["x", "y", "z"]}])
    assert [sides(r) for r in found] == [("a", "x"), ("b", "y"), ("a", "z")]


def test_system_history_and_tools_stand_before_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "find"}}]
    row = {"system": "Be brief.", "history": [["Hi", "Ho"]], "tools": json.dumps(tools), "instruction": "q", "output": "a"}
    ((record), ), _, _ = normalised("instructions", [row])  # fmt: skip
    assert [(m["role"], m["content"]) for m in record["prompt"]] == [
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "q"),
    ]  # fmt: skip
    assert json.loads(record["prompt"][0]["extra"]) == {"tools": tools}
    _, bad, _ = normalised("instructions", [{"system": "A", "messages": [user("s") | {"role": "system"}, user("q"), bot("a")]}])
    assert bad == ["wrong_type: `system` and the system message of the prompt differ"]


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"label": True}, "label"),
        ({"weight": 0.5}, "weight"),
        ({"reasoning_content": "hm"}, "reasoning_content"),
        ({"images": [{"bytes": b"x"}], "label": 1}, "images, label"),
    ],
)
def test_a_column_that_changes_the_meaning_is_refused_unless_it_is_ignored(extra: Row, names: str) -> None:
    rows = [{"prompt": "q", "completion": "a"} | extra, {"prompt": "r", "completion": "b"}]
    with pytest.raises(Refusal) as refusal:
        normalised("instructions", rows)
    assert all(f"`{name}` in 1 rows" in refusal.value.found for name in names.split(", "))
    assert f"ignore: [{names}]" in refusal.value.remedy
    found, _, _ = normalised("instructions", rows, Reading(ignore=tuple(names.split(", "))))
    assert len(found) == 2


def test_other_columns_that_nothing_reads_are_counted_once() -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "topic": n % 2 or None, "split": n} for n in range(6)]
    found, bad, tally = normalised("preferences", rows)
    assert (len(found), bad, {r["split"] for r in found}) == (6, [], {None})
    assert tally.unread == {"topic": 3}
    assert len(tally.sentences()) == 2
    assert "`topic` is not read (3 rows)" in tally.sentences()[0]
    assert "`split` holds no names of splits in 6 rows" in tally.sentences()[1]


def test_columns_of_any_name_are_mapped() -> None:
    reading = Reading(columns={"prompt": "data.ask", "chosen": "good", "rejected": "bad"})
    found, bad, tally = normalised("preferences", [{"data": {"ask": "q"}, "good": "a", "bad": "b"}], reading)
    assert (found[0]["prompt"], found[0]["rejected"], bad, dict(tally.unread)) == ([user("q")], [bot("b")], [], {})
    with pytest.raises(Refusal, match=r"write prompt: ask: the known name comes first|no column that is read"):
        normalised("preferences", [{"ask": "q"}], Reading(columns={"ask": "prompt"}))


@pytest.mark.parametrize(
    ("kind", "row", "remedy"),
    [
        ("instructions", {"prompt": "q", "response_0": "a", "response_1": "b"}, "and no verdict: add `better_response_id`"),
        (
            "preferences",
            {"Prompt": "q", "Chosen": "a", "Rejected": "b"},
            "rename `Prompt` to `prompt`, rename `Chosen` to `chosen`, ",
        ),
        ("instructions", {"chosen": "q", "rejected": "a"}, "name the file in data.preferences"),
        ("instructions", {"Prompt": "q", "Chosen": "a", "Rejected": "b"}, "name the file in data.preferences"),
        ("preferences", {"messages": []}, "name the file in data.instructions"),
        ("preferences", {"prompt": "q", "completion": "a", "label": False}, "name the file in data.feedback"),
        ("preferences", {"data": {"prompt": "q"}}, "the columns are inside `data`"),
        (
            "preferences",
            {"row_idx": 0, "row": {"question": "q", "chosen": "a", "rejected": "b"}, "truncated_cells": []},
            "inside `row`: name them in columns: {question: row.question, chosen: row.chosen, rejected: row.rejected}",
        ),
        ("instructions", {"foo": 1, "bar": 2}, "known names first, as {prompt: yours, completion: yours}"),
        ("preferences", {"foo": 1}, "known names first, as {prompt: yours, chosen: yours, rejected: yours}"),
        ("feedback", {"foo": 1}, "as {prompt: yours, completion: yours, label: yours}"),
        ("prompts", {"chosen": 1}, "name your columns in `columns`, known names first, as {prompt: yours}"),
        (
            "instructions",
            {"of": {"foo": 1}},
            "the columns are inside `of`: name them in columns, as {prompt: of.yours, completion: ",
        ),
        ("instructions", {"prompt": "q", "answers": [{"answer": "a", "rank": 1}]}, "name the file in data.preferences"),
        ("feedback", {"question": "q", "responses": ["a"], "ranks": [1]}, "name the file in data.preferences"),
        ("prompts", {"chosen": "q", "rejected": "q"}, "whose prompts are asked where there is no data.prompts"),
        ("prompts", {"conversation_a": [], "conversation_b": [], "winner": "a"}, "name the file in data.preferences"),
        ("preferences", {"query": "q", "response": "a"}, "name the file in data.instructions"),
    ],
)
def test_a_shape_that_is_not_there_has_a_remedy(kind: str, row: Row, remedy: str) -> None:
    """`response_1` is one of two answers: it is not proposed as the answer."""
    with pytest.raises(Refusal) as refusal:
        normalised(kind, [row])
    assert remedy in refusal.value.remedy
    assert ": response_" not in refusal.value.remedy


def test_a_remedy_for_columns_in_an_object_works() -> None:
    rows = [{"row_idx": 0, "row": {"prompt": "q", "chosen": "a", "rejected": "b"}}]
    with pytest.raises(Refusal, match=r"\{prompt: row\.prompt, chosen: row\.chosen, rejected: row\.rejected\}"):
        normalised("preferences", rows)
    reading = Reading(columns={"prompt": "row.prompt", "chosen": "row.chosen", "rejected": "row.rejected"})
    found, bad, _ = normalised("preferences", rows, reading)
    assert (found[0]["prompt"], found[0]["chosen"], found[0]["rejected"], bad) == ([user("q")], [bot("a")], [bot("b")], [])


@pytest.mark.parametrize(
    ("kind", "inner", "there", "columns"),
    [
        ("instructions", {"prompt": "q", "chosen": "a", "rejected": "b"}, "data.preferences",
         "{prompt: of.prompt, chosen: of.chosen, rejected: of.rejected}"),
        ("preferences", {"query": "q", "response": "a"}, "data.instructions", "{query: of.query, response: of.response}"),
        ("preferences", {"prompt": "q", "answer": "a", "desirable": True}, "data.feedback",
         "{prompt: of.prompt, completion: of.answer, label: of.desirable}"),
    ],
)  # fmt: skip
def test_rows_in_an_object_that_belong_elsewhere_are_told_both(kind: str, inner: Row, there: str, columns: str) -> None:
    with pytest.raises(Refusal) as refusal:
        normalised(kind, [{"id": 1, "of": inner}])
    assert f"name the file in {there}" in refusal.value.remedy
    assert refusal.value.remedy.endswith(f"the columns are inside `of`: name them in columns: {columns}")


def test_pairs_that_are_read_as_conversations_are_told_of() -> None:
    """They may be meant so, as in UltraFeedback binarised."""
    talk, sides = [user("q"), bot("a")], {"chosen": [bot("a")], "rejected": [bot("b")]}
    rows = [{"messages": talk} | sides, {"messages": talk, "chosen": None} | sides, {"messages": talk}]
    found, bad, tally = normalised("instructions", rows)
    assert (len(found), bad, tally.unread) == (3, [], {"chosen": 2, "rejected": 2})
    (said,) = tally.notes
    assert (said.startswith("these rows have several answers"), tally.notes[said]) == (True, 2)
    assert "name the file in data.preferences, to train on these; here they are not read (2 rows)" in tally.sentences()[-1]
    for kind, row in (("preferences", {"messages": talk, "prompt": "q"} | sides), ("instructions", {"messages": talk, "id": 1})):
        assert not normalised(kind, [row])[2].notes


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([{"id": "1"}] * 9 + [{"id": "1", "chosen": "x", "rejected": "y"}], 1),  # a column that all have says nothing
        ([{"chosen": "x"}] * 9 + [{"chosen": "x", "rejected": "y"}], 1),
        ([{"chosen": "x", "rejected": "y"}] * 5 + [{"response_a": "x", "response_b": "y", "winner": "model_a"}] * 2, 7),
    ],
)
def test_rows_that_have_several_answers_are_counted(rows: list[dict[str, str]], count: int) -> None:
    _, _, tally = normalised("instructions", [{"prompt": "q", "completion": "a"} | row for row in rows])
    assert list(tally.notes.values()) == [count]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>", "written by a chat template (<|im_start|>)"),
        ("<s>[INST] q [/INST] a</s>", "written by a chat template ([INST])"),
        ("A tale of 2 | 3 cities.", "documents go to data.corpus"),
    ],
)
def test_a_text_without_turns_is_called_what_it_is(text: str, said: str) -> None:
    found, bad, _ = normalised("instructions", [{"text": text}])
    assert not found
    assert said in bad[0]


def test_images_are_refused_by_row_and_dropped_on_purpose() -> None:
    row = {"messages": [user("q") | {"content": [{"type": "image_url", "image_url": {}}, *parts("What?")]}, bot("a")]}
    _, bad, _ = normalised("instructions", [row])
    assert bad == [
        "not_text: `messages[0].content[0]` is a part of type image_url, which is not read; `ignore: [image_url]` drops it"
    ]
    found, _, _ = normalised("instructions", [row], Reading(ignore=("images",)))
    assert found[0]["prompt"] == [user("What?")]


def test_several_pairs_of_a_row_count_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": ["b", "c", "d"]}) + "\nno\n")
    tally = Tally()
    table, bad, rows = collect(KINDS["preferences"], [SourceFile(path.name, str(path))], tally=tally)
    assert (table.height, len(bad), rows, tally.read) == (3, 1, 4, 2)
    assert tally.as_json(rows)["file_rows"] == 2
    assert table["row"].to_list() == [1, 1, 1]
    assert table.schema["prompt"] == pl.List(pl.Struct({"role": pl.String, "content": pl.String, "extra": pl.String}))


def test_the_documentation_shows_the_table() -> None:
    assert shapes_table().strip() in DOCS.read_text(encoding="utf-8")


def test_two_columns_of_system_messages_must_say_the_same() -> None:
    row = {"prompt": "q", "completion": "a", "system": "Be brief."}
    found, bad, _ = normalised("instructions", [row | {"system_prompt": " Be brief.\n"}, row | {"system_prompt": " "}])
    assert ([len(record["prompt"]) for record in found], bad) == ([2, 2], [])
    _, bad, _ = normalised("instructions", [row | {"system_message": "Be long."}])
    assert bad == ["wrong_type: `system` and `system_message` are two system messages that differ"]
