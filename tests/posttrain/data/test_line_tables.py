"""JSON lines that become tables without an object for each row are what they are row by row, whatever stands in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data import line_tables
from posttrain.data.collect import Collector
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal
from schemas.reading import Reading

Rows = Callable[[int], dict[str, Any]]


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)]


USUAL: dict[str, tuple[str, Rows]] = {
    "text": ("preferences", lambda n: {"prompt": f"q {n}?", "chosen": f"yes {n}", "rejected": "no é"}),
    "scores": ("preferences", lambda n: {"question": f"q {n}?", "chosen": "a", "rejected": "b", "score_chosen": n % 3 + 1.5}),
    "other columns": ("preferences", lambda n: {"prompt": "q", "chosen": "a", "rejected": "b", "id": n, "by": "me", "old": True}),
    "messages": ("preferences", lambda n: {"chosen": said(f"q {n}", "a", "r", "b"), "rejected": said(f"q {n}", "a", "r", "c")}),
    "prompt and messages": ("preferences", lambda n: {"prompt": f"q{n}", "chosen": said("q", "a"), "rejected": said("q", "b")}),
    "transcripts": ("preferences", lambda n: {
        side: f"\n\nHuman: q {n}\n\nAssistant: so\u3000\n\nHuman:\u00a0why?\x1f\n\nAssistant: {end} " for side, end in
        (("chosen", "good"), ("rejected", "b\u00e4d\x85"))
    }),
    "conversations": ("instructions", lambda n: {"messages": [{"role": "system", "content": "be"}, *said(f"q {n}", "a")]}),
    "answers": ("instructions", lambda n: {"prompt": f"q {n}", "response": "a", "n": n}),
}  # fmt: skip
ODD: dict[str, Callable[[dict[str, Any]], str]] = {
    "null": lambda row: json.dumps(row | {next(iter(row)): None}),
    "missing": lambda row: json.dumps(dict([*row.items()][1:])),
    "more": lambda row: json.dumps(row | {"more": 1}),
    "number": lambda row: json.dumps(row | {next(iter(row)): 3}),
    "empty": lambda row: json.dumps({name: "" if isinstance(value, str) else [] for name, value in row.items()}),
    "twice": lambda row: f'{json.dumps(row)[:-1]}, "{next(iter(row))}": "b"}}',
    "escaped twice": lambda row: f'{json.dumps(row)[:-1]}, "\\u00{ord(next(iter(row))[0]):x}{next(iter(row))[1:]}": "b"}}',
    "two on a line": lambda row: json.dumps(row) * 2,
    "over two lines": lambda row: json.dumps(row).replace(", ", ",\n", 1),
    "blank line": lambda row: f"{json.dumps(row)}\n  ",
    "carriage return": lambda row: f"{json.dumps(row)}\r",
    "indented": lambda row: f"  {json.dumps(row)}  ",
    "cut": lambda row: json.dumps(row)[:-3],
    "NaN": lambda row: json.dumps(row | {[*row][-1]: float("nan")}),
    "infinite": lambda row: json.dumps(row | {[*row][-1]: float("inf")}),
    "surrogate": lambda row: json.dumps(row).replace("q", "\\ud800", 1),
    "zero": lambda row: json.dumps(row).replace("q", "\\u0000", 1),
    "byte order mark": lambda row: f"\ufeff{json.dumps(row)}",
    "list": lambda row: "[1]",
    "human": lambda row: json.dumps(row).replace("q", "Human: x\\n\\nAssistant: y", 1),
    "other roles": lambda row: json.dumps(row).replace('"user"', '"human"').replace('"assistant"', '"bot"'),
    "silent system": lambda row: json.dumps(row).replace("be", "\u00a0 "),
    "assistant first": lambda row: json.dumps(row).replace('"user"', '"assistant"', 1),
    "return inside": lambda row: json.dumps(row).replace("\\n", "\\r\\n"),
    "other prompt": lambda row: json.dumps(row).replace("q", "p", 1),
    "weight": lambda row: json.dumps(row).replace('"content"', '"weight": 0, "content"', 1),
    "split": lambda row: json.dumps(row | {"split": "test"}),
    "white space": lambda row: json.dumps(row).replace("q", "\u2003\\v", 1),
}
BYTES = b'"\\{}[],: \n\r\xff\x00u1e'


def collected(kind: str, path: Path, side: str | None, one_by_one: bool, reading: Reading = Reading()) -> Any:  # noqa: B008
    bad: list[BadRow] = []
    notes: list[str] = []
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        if one_by_one:
            patch.setattr("posttrain.data.collect.by_lines", lambda lines, *_: ([], np.arange(len(lines.raw))))
        file = SourceFile("f.jsonl", str(path), split=side, reading=reading)
        try:
            table = pl.concat(Collector(KINDS[kind], [file], False, notes.append, bad.append, tally).tables())
        except Refusal as refusal:
            return refusal.parts
    return table.to_dicts(), sorted(bad, key=lambda each: each.row), tally, notes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that one bad row does not keep from being read at once."""
    for name in ("FEW", "SMALLEST"):
        monkeypatch.setattr(line_tables, name, 2)


@pytest.mark.parametrize("name", USUAL)
def test_usual_lines_are_not_read_one_by_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests below would compare one way with itself."""
    kind, row = USUAL[name]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(50)))
    expected = collected(kind, path, None, one_by_one=True)
    monkeypatch.setattr("posttrain.data.containers.lines.parse", lambda _: pytest.fail("row by row"))
    assert repr(collected(kind, path, None, one_by_one=False)) == repr(expected)
    assert len(expected[0]) == 50


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", USUAL)
def test_odd_lines_among_usual_ones(name: str, odd: str, tmp_path: Path) -> None:
    """The first, or one in the middle of the others."""
    kind, row = USUAL[name]
    for at, side in ((0, None), (6, "holdout")):
        lines = [json.dumps(row(n)) for n in range(9)]
        lines[at] = ODD[odd](row(at))
        path = tmp_path / f"{at}.jsonl"
        path.write_bytes(("\n".join(lines) + "\n").encode())
        assert repr(collected(kind, path, side, False)) == repr(collected(kind, path, side, one_by_one=True))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", USUAL)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """A few bytes of a file are others, or missing."""
    kind, row = USUAL[name]
    text = bytearray("".join(json.dumps(row(n), ensure_ascii=n % 2 == 0) + "\n" for n in range(10)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([b"", *(bytes([each]) for each in BYTES)]))
    path = tmp_path / "f.jsonl"
    path.write_bytes(text)
    assert repr(collected(kind, path, None, False)) == repr(collected(kind, path, None, one_by_one=True))


@pytest.mark.parametrize("reading", [Reading(columns={"prompt": "prompt"}), Reading(ignore=("id",))])
def test_columns_that_a_recipe_names_or_leaves_out(reading: Reading, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(USUAL["other columns"][1](n)) + "\n" for n in range(50)))
    found = collected("preferences", path, None, False, reading)
    assert repr(found) == repr(collected("preferences", path, None, True, reading))
    assert len(found[0]) == 50


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": said("q"), "chosen": "a", "rejected": "b"},
        {"prompt": said("q"), "chosen": "\n\nHuman: r\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"},
        {"prompt": said("q"), "chosen": said("q", "a"), "rejected": said("q", "b")},
        {"chosen": said("q", "a"), "rejected": "b"},
    ],
)
def test_layouts_that_are_known_and_yet_not_read_at_once(row: dict[str, Any], tmp_path: Path) -> None:
    """Texts and messages side by side, of which nothing is made in columns."""
    path = tmp_path / "f.jsonl"
    path.write_text((json.dumps(row) + "\n") * 50)
    found = collected("preferences", path, None, False)
    assert repr(found) == repr(collected("preferences", path, None, one_by_one=True))
    assert found[2].read == 50


def test_a_last_line_without_a_break_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join(json.dumps(USUAL["text"][1](n)) for n in range(50)))
    table, bad, _, _ = collected("preferences", path, None, False)
    assert ([row["row"] for row in table], bad) == ([*range(1, 51)], [])


def test_many_lines_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 64 bytes and 7 lines at most at a time, of which some are odd."""
    for name, value in (("BLOCK", 64), ("AT_ONCE", 7)):
        monkeypatch.setattr(f"posttrain.data.containers.lines.{name}", value)
    monkeypatch.setattr(line_tables, "FEW", 2)
    path = tmp_path / "f.jsonl"
    lines = [json.dumps(USUAL["text"][1](n) | ({} if n % 11 else {"more": n})) for n in range(200)]
    path.write_text("\n".join(lines) + "\n")
    table, bad, tally, _ = collected("preferences", path, None, False)
    assert [(row["row"], row["prompt"][0]["content"]) for row in table] == [(n + 1, f"q {n}?") for n in range(200)]
    assert (bad, tally.taken, dict(tally.unread)) == ([], 200, {"more": 19})
