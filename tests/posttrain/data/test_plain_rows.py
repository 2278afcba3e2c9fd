"""Rows that become tables by columns are what they are row by row, whatever stands in them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data import plain_rows
from posttrain.data.collect import Collector
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

PROMPT = "What is the capital of France?"
ANSWER = {"role": "assistant", "content": "hi"}
TEXTS = st.sampled_from(
    ["a", "", " b", "Human: x\n\nAssistant: y", "\n\nHuman: x", "Assistant: z", "### Human: q ### Assistant: a", "Answer", "Hum",
     '[{"role": "user", "content": "x"}]', "{", "<nooutput>", "NoOutput", PROMPT, f"{PROMPT} Paris.", f"{PROMPT} Rome.", "é"]
)  # fmt: skip
ODD = st.sampled_from([None, 3, 2.5, True, ["a", "b"], [ANSWER], ANSWER])
CELL = TEXTS | ODD
SCORE = st.sampled_from([None, 1, 2.5, float("nan"), "3", "x", True, float("inf"), 10**400])
SPLIT = st.sampled_from([None, "train", "test", 3])


SPOKEN = st.sampled_from(["a", "b", "", "x\n\nHuman: y", "Human: z", " c ", "é\n"])
TURN = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": SPOKEN}),
    st.fixed_dictionaries({"role": st.sampled_from(["Human", "developer", "gpt", "odd"]), "content": SPOKEN}),
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system", "function_call"]), "value": SPOKEN}),
    st.sampled_from([
        {"role": "assistant", "content": "a", "tool_calls": None}, {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": None}, {"role": 1, "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "p"}]},
        {"role": "user"}, {"role": "system", "content": " "}, "text", {"role": "user", "content": "q", "name": "Bo"},
        {"from": "human", "value": "q", "weight": None},
    ]),
)  # fmt: skip
USUAL = st.sampled_from([[("user", "q")], [("system", "s"), ("user", "q")], [("user", "q"), ("assistant", "a"), ("user", "r")]])


@st.composite
def talks(draw: st.DrawFn) -> list[Any]:
    """Mostly what is usual: turns of the user, of the assistant, and an answer."""
    usual = [{"role": role, "content": said} for role, said in draw(USUAL)]
    odd = draw(st.integers(0, 3)) == 0
    return draw(st.lists(TURN, max_size=4)) if odd else [*usual, {"role": "assistant", "content": draw(SPOKEN)}]


def written(talk: list[tuple[str, str]], gap: str) -> str:
    names = {"user": "Human", "assistant": "Assistant", "system": "Human"}
    return "".join(f"{gap}{names[role]}: {said}" for role, said in talk)


@st.composite
def sides(draw: st.DrawFn) -> dict[str, Any]:
    """Two sides that mostly share all but their last message, as messages or as transcripts; some with the prompt apart."""
    turns = draw(USUAL)
    gap = draw(st.sampled_from(["\n\n", "\n\n", "\n\n\n", "\r\n\r\n"]))
    row: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        own = draw(USUAL) if draw(st.integers(0, 4)) == 0 else turns
        talk = [*own, ("assistant", draw(SPOKEN))]
        row[side] = [{"role": role, "content": said} for role, said in talk]
        row[side] = draw(st.sampled_from([row[side], row[side], row[side][-1:], row[side][-1], written(talk, gap)]))
    return row


def table_of(kind: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    bad: list[BadRow] = []
    monkeypatch.setattr("posttrain.data.collect.read_rows", lambda *_, **__: iter(enumerate([dict(row) for row in rows], 1)))
    tally = Tally()
    try:
        tables = list(Collector(KINDS[kind], [SourceFile("f", "f")], False, print, bad.append, tally).tables())
    except Refusal as refusal:
        return (refusal.parts,)
    return pl.concat(tables).to_dicts(), sorted(bad, key=lambda each: each.row), tally


def row_by_row(kind: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    monkeypatch.setattr(plain_rows, "FEW", len(rows) + 1)
    found = table_of(kind, rows, monkeypatch)
    monkeypatch.setattr(plain_rows, "FEW", 1)
    return found


SHAPES = {
    "preferences": {"prompt": CELL, "chosen": CELL, "rejected": CELL},
    "instructions": {"prompt": CELL, "completion": CELL},
    "feedback": {"prompt": CELL, "completion": CELL, "label": st.booleans()},
}
MESSAGES = {
    "preferences": st.one_of(
        sides(),
        st.builds(lambda row, prompt: row | {"prompt": prompt}, sides(), TEXTS | talks().map(lambda talk: talk[:-1]) | talks()),
        st.builds(lambda row, talk: row | {"conversations": talk}, sides(), talks()),
        st.fixed_dictionaries({"chosen": talks(), "rejected": talks()}),
    ),
    "instructions": st.one_of(
        st.fixed_dictionaries({"messages": talks()}),
        st.fixed_dictionaries({"conversation": talks()}),
        st.fixed_dictionaries({"prompt": talks() | TEXTS, "completion": talks() | TEXTS}),
    ),
    "feedback": st.one_of(
        st.fixed_dictionaries({"messages": talks(), "label": st.sampled_from([True, False, 1, "good", None])}),
        st.fixed_dictionaries({"query": CELL, "response": TEXTS, "kto_tag": st.booleans()}),
    ),
    "prompts": st.one_of(
        st.fixed_dictionaries({"query": talks() | CELL, "answer": CELL}), st.fixed_dictionaries({"messages": talks()}),
    ),
}  # fmt: skip
OPTIONAL = {"score_chosen": SCORE, "chosen_score": SCORE, "split": SPLIT, "note": CELL, "system": CELL}
MORE = st.sets(st.sampled_from(sorted(OPTIONAL)))


@pytest.mark.parametrize("kind", SHAPES)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_tables_by_columns_are_those_row_by_row(kind: str, data: st.DataObject) -> None:
    columns = SHAPES[kind] | {name: OPTIONAL[name] for name in sorted(data.draw(MORE))}
    usual = data.draw(st.booleans())  # mostly text, so that whole tables are plain
    cell = {name: TEXTS if usual and each is CELL else each for name, each in columns.items()}
    rows = data.draw(st.lists(st.fixed_dictionaries(cell), min_size=1, max_size=12))
    with pytest.MonkeyPatch.context() as patch:
        assert repr(table_of(kind, rows, patch)) == repr(row_by_row(kind, rows, patch))


@pytest.mark.parametrize("kind", MESSAGES)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_tables_of_messages_are_those_row_by_row(kind: str, data: st.DataObject) -> None:
    """Rows have the same columns mostly: those of the first one say what is tried by columns."""
    more = data.draw(st.dictionaries(st.sampled_from(["note", "id"]), st.just(3), max_size=1))
    scored = {name: OPTIONAL[name] for name in sorted(data.draw(MORE) - {"system"})}
    rows = data.draw(st.lists(MESSAGES[kind], min_size=1, max_size=8))
    rows = [row | more | {name: data.draw(each) for name, each in scored.items()} for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        assert repr(table_of(kind, rows, patch)) == repr(row_by_row(kind, rows, patch))


HH = "\n\nHuman: q {n}\n\nAssistant: so\n\nHuman: why?\n\nAssistant: {answer}"
USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 2}),
        ("preferences", {"chosen": [USER, BOT], "rejected": [USER, BOT | {"content": "b"}]}),
        ("preferences", {"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, BOT | {"content": "b"}], "score_chosen": 1.5}),
        ("preferences", {"prompt": [USER], "chosen": [BOT], "rejected": [BOT | {"content": "b"}]}),
        ("preferences", {"problem": [USER], "chosen": [BOT], "rejected": [BOT | {"content": "b"}]}),
        ("preferences", {"chosen": HH.format(n=1, answer="a"), "rejected": HH.format(n=1, answer="b")}),
        ("preferences", {"conversations": [USER], "chosen": BOT, "rejected": {"from": "gpt", "value": "b"}}),
        ("instructions", {"messages": [USER, BOT, USER, BOT]}),
        ("instructions", {"messages": [USER | {"tool_calls": None}, BOT | {"tool_calls": None}]}),
        ("instructions", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        ("instructions", {"prompt": [USER], "completion": [BOT]}),
        ("feedback", {"prompt": "q", "completion": "a", "label": True}),
        ("prompts", {"question": "q", "answer": "4"}),
    ],
)
def test_usual_rows_are_not_read_one_by_one(kind: str, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would compare one way with itself."""
    monkeypatch.setattr("posttrain.data.file_rows.FileRows.take_prepared", lambda *_: pytest.fail("row by row"))
    records, bad, tally = table_of(kind, [row] * plain_rows.FEW, monkeypatch)
    assert (len(records), bad, tally.taken) == (plain_rows.FEW, [], plain_rows.FEW)
    if "chosen" in row:
        assert [message["content"] for message in records[0]["prompt"]][-1] == ("why?" if isinstance(row["chosen"], str) and
            "Human" in row["chosen"] else "q")  # fmt: skip
        assert [records[0][side][0]["content"] for side in ("chosen", "rejected")] == ["a", "b"]


def test_plain_rows_are_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would compare one way with itself."""
    rows = [{"prompt": f"q {n}", "chosen": "a", "rejected": "b", "id": n} for n in range(plain_rows.FEW)]
    monkeypatch.setattr("posttrain.data.file_rows.FileRows.take_prepared", lambda *_: pytest.fail("row by row"))
    records, bad, tally = table_of("preferences", rows, monkeypatch)
    assert [record["extra"] for record in records[:2]] == ['{"id":0}', '{"id":1}']
    assert (len(records), bad, tally.taken, dict(tally.unread)) == (16, [], 16, {"id": 16})


@pytest.mark.parametrize("output", ["a", [BOT]])
def test_an_instruction_of_messages_is_no_usual_row(output: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is text, to which an input may be added: messages cost their rows, however many there are."""
    rows = [{"instruction": "Add.", "output": "2"}] + [{"instruction": [USER], "output": output}] * plain_rows.FEW
    records, bad, _ = table_of("instructions", rows, monkeypatch)
    assert [record["row"] for record in records] == [1]
    assert {each.reason for each in bad} == {"wrong_type: `instruction` is a list, not text"}
    assert len(bad) == plain_rows.FEW
