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


def test_plain_rows_are_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would compare one way with itself."""
    rows = [{"prompt": f"q {n}", "chosen": "a", "rejected": "b", "id": n} for n in range(plain_rows.FEW)]
    monkeypatch.setattr("posttrain.data.file_rows.FileRows.take_prepared", lambda *_: pytest.fail("row by row"))
    records, bad, tally = table_of("preferences", rows, monkeypatch)
    assert [record["extra"] for record in records[:2]] == ['{"id":0}', '{"id":1}']
    assert (len(records), bad, tally.taken, dict(tally.unread)) == (16, [], 16, {"id": 16})
