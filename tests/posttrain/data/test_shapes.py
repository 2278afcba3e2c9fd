"""One data set in every shape that people publish gives one table; and what is said of columns that no shape reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

Row = dict[str, Any]
TRIPLES = [(f"What is {n}?", f"It is good {n}.", f"No {n}.") for n in range(6)]
DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"


def user(content: str) -> Row:
    return {"role": "user", "content": content}


def bot(content: str) -> Row:
    return {"role": "assistant", "content": content}


def gpt(speaker: str, content: str) -> Row:
    return {"from": speaker, "value": content}


def parts(content: str) -> list[Row]:
    half = len(content) // 2
    return [{"type": "text", "text": content[:half]}, {"type": "text", "text": content[half:]}]


def hh(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


PAIRS: dict[str, Callable[[str, str, str], Row]] = {
    "TRL standard": lambda q, c, r: {"prompt": q, "chosen": c, "rejected": r},
    "TRL conversational": lambda q, c, r: {"prompt": [user(q)], "chosen": [bot(c)], "rejected": [bot(r)]},
    "TRL implicit": lambda q, c, r: {"chosen": [user(q), bot(c)], "rejected": [user(q), bot(r)]},
    "one message a side": lambda q, c, r: {"prompt": q, "chosen": bot(c), "rejected": bot(r)},
    "mixed": lambda q, c, r: {"prompt": q, "chosen": [bot(c)], "rejected": r},
    "bytes": lambda q, c, r: {"prompt": q.encode(), "chosen": c, "rejected": r.encode()},
    "JSON text": lambda q, c, r: {f: json.dumps([user(q), bot(a)]) for f, a in (("chosen", c), ("rejected", r))} | {"prompt": q},
    "Python text": lambda q, c, r: {"chosen": str([user(q), bot(c)]), "rejected": str([user(q), bot(r)])},
    "content parts": lambda q, c, r: {"prompt": [user("") | {"content": parts(q)}], "chosen": [bot(c)], "rejected": [bot(r)]},
    "prompt in front": lambda q, c, r: {"prompt": q * 3, "chosen": q * 3 + c, "rejected": q * 3 + r},
    "HH": lambda q, c, r: {"chosen": hh(q, c), "rejected": hh(q, r)},
    "HH, prompt apart": lambda q, c, r: {"prompt": hh(q, ""), "chosen": c, "rejected": r},
    "HH, headings": lambda q, c, r: {f: f"### Human: {q}\n### Assistant: {a}" for f, a in (("chosen", c), ("rejected", r))},
    "HH, CRLF": lambda q, c, r: {f: hh(q, a).replace("\n", "\r\n") for f, a in (("chosen", c), ("rejected", r))},
    "Orca": lambda q, c, r: {"system": "", "question": q, "chosen": c, "rejected": r},
    "Alpaca DPO": lambda q, c, r: {"prompt": None, "instruction": q, "input": "", "chosen": c, "rejected": r},
    "ShareGPT DPO": lambda q, c, r: {"conversations": [gpt("human", q)], "chosen": gpt("gpt", c), "rejected": gpt("gpt", r)},
    "ms-swift": lambda q, c, r: {"messages": [user(q), bot(c)], "rejected_response": r},
    "ms-swift query": lambda q, c, r: {"query": q, "response": c, "rejected_response": r},
    "Argilla": lambda q, c, r: {"instruction": q, "chosen_response": c, "rejected_response": r},
    "Argilla, prompt": lambda q, c, r: {"prompt": q, "chosen_response": c, "rejected_response": r},
    "UltraFeedback": lambda q, c, r: {
        "instruction": q,
        "completions": [{"response": r, "overall_score": 1}, {"response": c, "overall_score": "7.5"}],
    },
    "UltraFeedback binarised": lambda q, c, r: {
        "prompt": q, "chosen": [user(q), bot(c)], "rejected": [user(q), bot(r)], "messages": [user(q), bot(c)],
    },
    "Nectar": lambda q, c, r: {"prompt": hh(q, ""), "answers": [{"answer": r, "rank": 7.0}, {"answer": c, "rank": 1.0}]},
    "scores apart": lambda q, c, r: {"prompt": q, "responses": [r, c], "scores": [0.1, 0.9]},
    "ranks apart": lambda q, c, r: {"prompt": q, "responses": [r, c], "ranks": [2, 1]},
    "several rejected": lambda q, c, r: {"prompt": q, "chosen": c, "rejected": [r]},
    "solutions": lambda q, c, r: {"problem": q, "correct": [c], "incorrect": [r]},
    "HelpSteer3": lambda q, c, r: {"context": [user(q)], "response1": c, "response2": r, "overall_preference": -2},
    "HelpSteer2 preference": lambda q, c, r: {"prompt": q, "response_1": r, "response_2": c, "preference_strength": 1},
    "SHP": lambda q, c, r: {"history": q, "human_ref_A": r, "human_ref_B": c, "labels": 0, "score_A": 3, "score_B": 20},
    "PKU": lambda q, c, r: {"prompt": q, "response_0": r, "response_1": c, "better_response_id": 1, "safer_response_id": 1},
    "PKU, safety": lambda q, c, r: {"prompt": q, "response_0": c, "response_1": r, "safer_response_id": 0},
    "arena": lambda q, c, r: {"winner": "model_b", "conversation_a": [user(q), bot(r)], "conversation_b": [user(q), bot(c)]},
    "arena, columns": lambda q, c, r: {
        "prompt": json.dumps([q]), "response_a": json.dumps([c]), "response_b": json.dumps([r]),
        "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0,
    },
    "two and a winner": lambda q, c, r: {"prompt": q, "response_a": r, "response_b": c, "winner": "B"},
    "OpenAI": lambda q, c, r: {
        "input": {"messages": [user(q)], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [bot(c)], "non_preferred_output": [bot(r)],
    },
    "AlpacaEval": lambda q, c, r: {"instruction": q, "output_1": r, "output_2": c, "preference": 2.0},
    "Stack Exchange": lambda q, c, r: {"question": q, "response_j": c, "response_k": r},
    "WebGPT": lambda q, c, r: {"question": {"full_text": q}, "answer_0": r, "answer_1": c, "score_0": -0.5, "score_1": 0.5},
}  # fmt: skip
TALKS: dict[str, Callable[[str, str], Row]] = {
    "messages": lambda q, a: {"messages": [user(q), bot(a)]},
    "messages, other names": lambda q, a: {"messages": [user(q) | {"role": "Human"}, bot(a) | {"role": "model"}]},
    "messages, padded": lambda q, a: {"messages": [user(q) | {"tool_calls": None, "name": None}, bot(a) | {"tool_calls": []}]},
    "JSON text": lambda q, a: {"messages": json.dumps([user(q), bot(a)])},
    "content parts": lambda q, a: {"messages": [user("") | {"content": parts(q)}, bot("") | {"content": parts(a)}]},
    "ShareGPT": lambda q, a: {"conversations": [gpt("human", q), gpt("gpt", a)]},
    "prompt and completion": lambda q, a: {"prompt": q, "completion": a},
    "prompt and response": lambda q, a: {"prompt": [user(q)], "response": [bot(a)]},
    "Assistant in front": lambda q, a: {"prompt": q, "completion": f"Assistant: {a}"},
    "Alpaca": lambda q, a: {"instruction": q, "input": None, "output": a},
    "Alpaca, no input": lambda q, a: {"instruction": q, "input": "<noinput>", "output": a},
    "Alpaca, list": lambda q, a: {"instruction": q, "input": [], "output": a},
    "Dolly": lambda q, a: {"instruction": q, "context": "", "response": a},
    "Orca": lambda q, a: {"system_prompt": "", "question": q, "response": a},
    "ms-swift": lambda q, a: {"query": q, "response": a, "history": []},
    "question and answer": lambda q, a: {"question": q, "answer": a},
    "input and output": lambda q, a: {"input": q, "output": a},
    "Guanaco": lambda q, a: {"text": f"### Human: {q}### Assistant: {a}"},
    "Alpaca text": lambda q, a: {"text": f"### Instruction:\n{q}\n\n### Response:\n{a}"},
}


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
        ("instructions", {"prompt": "q", "response_0": "a", "response_1": "b"}, "add `completion`"),
        (
            "preferences",
            {"Prompt": "q", "Chosen": "a", "Rejected": "b"},
            "rename `Prompt` to `prompt`, rename `Chosen` to `chosen`, ",
        ),
        ("instructions", {"chosen": "q", "rejected": "a"}, "name the file in data.preferences"),
        ("preferences", {"messages": []}, "name the file in data.instructions"),
        ("preferences", {"data": {"prompt": "q"}}, "the columns are inside `data`"),
        ("instructions", {"foo": 1, "bar": 2}, "name your columns in `columns`"),
    ],
)
def test_a_shape_that_is_not_there_has_a_remedy(kind: str, row: Row, remedy: str) -> None:
    """`response_1` is one of two answers: it is not proposed as the answer."""
    with pytest.raises(Refusal) as refusal:
        normalised(kind, [row])
    assert remedy in refusal.value.remedy
    assert "response_" not in refusal.value.remedy


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
