"""Rows of any content: each is kept or quarantined with a reason, or the file is refused by name; nothing else is raised."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data.columns import CONTEXT, MEDIA
from posttrain.data.kinds import KINDS
from posttrain.data.sources import SourceFile
from posttrain.data.validate import validate
from schemas.checks import Checks
from schemas.errors import Refusal
from schemas.reading import Reading
from tests.posttrain.data.rows_in_shapes import PAIRS, TALKS

CASES = int(os.environ.get("FUZZ_CASES", "10"))  # of each kind; 1,000 were tried once
LENIENT = Checks(
    max_drop_rate=1, prompt_mismatch_fail=1, conflict_fail=1, reversed_scores_fail=1, length_bias_fail=1, prompt_repeated_fail=1,
    waive={"one_label": "any rows"},
)  # fmt: skip
TEXT = st.text(max_size=12) | st.sampled_from([
    "", " ", "Human: a", "\n\nHuman: a\n\nAssistant: b", "### Human: x", '[{"role": "user", "content": "a"}]', "[1", "{",
    "NaN", "<|im_end|>", "\u200b", "train", "test", "user", "assistant", "tool", "model_a", "1e999", "-1", "true",
])  # fmt: skip
NUMBER = st.integers() | st.floats() | st.sampled_from([0, 1, 2, -1, 10**30, 1e308])
NAMES = sorted({
    *(name for kind in KINDS.values() for shape in kind.shapes for name in shape.claims), *CONTEXT, *MEDIA, "role", "content",
    "from", "value", "type", "text", "tool_calls", "function", "name", "arguments", "weight", "rank", "score", "response",
})  # fmt: skip
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=4),
    max_leaves=8,
)
GOOD = {
    "preferences": [make("What is it?", "It is so.", "No.") for name, make in PAIRS.items() if name != "bytes"],
    "instructions": [make("What is it?", "It is so.") for make in TALKS.values()],
}
GOOD["feedback"] = [row | {"label": True} for row in GOOD["instructions"]]
GOOD["prompts"] = GOOD["instructions"]


@st.composite
def spoilt(draw: st.DrawFn, kind: str) -> Any:
    """A good row in which something is another value, or gone; or any object."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=6))
    row = copy.deepcopy(draw(st.sampled_from(GOOD[kind])))
    for _ in range(draw(st.integers(0, 2))):
        at: Any = row
        for _ in range(draw(st.integers(0, 4))):
            keys = list(at) if isinstance(at, dict) else range(len(at))
            inner = at[draw(st.sampled_from(keys))] if keys else None
            if not isinstance(inner, dict | list) or not inner:
                break
            at = inner
        keys = [*at] if isinstance(at, dict) else [*range(len(at))]
        name = draw(st.sampled_from(keys)) if keys else None
        if name is not None and draw(st.booleans()):
            at[name] = draw(VALUE)
        elif name is not None:
            del at[name]
    return row | {name: draw(VALUE) for name in draw(st.lists(st.sampled_from(NAMES), max_size=1))}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rows_are_kept_or_quarantined_or_the_file_is_refused(kind: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(spoilt(kind), min_size=1, max_size=20))
    reading = Reading(ignore=("weight", *MEDIA)) if data.draw(st.booleans()) else Reading()
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "rows.jsonl", Path(folder) / "out"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8", "surrogatepass")
        outcome = validated(kind, SourceFile(path.name, str(path), reading=reading), out)
        if isinstance(outcome, Refusal):
            assert outcome.where.startswith(("rows.jsonl", f"data.{kind}"))
            assert outcome.remedy
            return
        kept, quarantine = pl.read_parquet(out / f"{kind}.parquet"), pl.read_parquet(out / "quarantine.parquet")
    assert outcome[f"{kind}_rows_in"] == kept.height + quarantine.height >= len(rows) - rows_made_together(rows)
    assert quarantine["reasons"].list.len().min() != 0


def validated(kind: str, file: SourceFile, out: Path) -> dict[str, float] | Refusal:
    try:
        return validate({kind: [file]}, LENIENT, 0.3, out)
    except Refusal as refusal:
        return refusal


def rows_made_together(rows: list[Any]) -> int:
    """Neighbouring rows of one prompt with marks are one pair (HelpSteer)."""
    return sum("helpfulness" in row for row in rows)
