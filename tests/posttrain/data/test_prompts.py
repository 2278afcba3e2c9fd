"""Prompts without answers: the shapes that are read, what rewards see of a row, and the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from posttrain.data.kinds import KINDS
from posttrain.data.prompts import SHAPES
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from posttrain.data.sources import resolve
from posttrain.data.validate import validate
from posttrain.rewards.rows import columns_of
from schemas.data import Checks
from schemas.errors import Refusal
from schemas.prompts import Prompts
from schemas.reading import Reading

USER = {"role": "user", "content": "2 + 3?"}
SYSTEM = {"role": "system", "content": "Be short."}
SAID = {"role": "assistant", "content": "5"}


def read(*rows: dict[str, Any], reading: Reading = Reading()) -> tuple[list[dict[str, Any]], list[BadRow], Tally]:  # noqa: B008
    bad: list[BadRow] = []
    tally = Tally()
    found = list(KINDS["prompts"].normalise(enumerate(rows, 1), "p.jsonl", bad.append, reading, tally))
    return found, bad, tally


@pytest.mark.parametrize(
    ("row", "prompt", "extra"),
    [
        ({"prompt": "2 + 3?", "answer": 5}, [USER], {"answer": 5}),
        ({"prompt": [SYSTEM, USER], "label": "5"}, [SYSTEM, USER], {"label": "5"}),
        ({"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}, [USER], {"answer": "2 + 3 = 5\n#### 5"}),  # GSM8K
        ({"problem": "2 + 3?", "solution": "$5$", "level": 1}, [USER], {"solution": "$5$", "level": 1}),  # MATH
        ({"messages": [USER, SAID], "tests": ["f"]}, [USER], {"completion": [SAID], "tests": ["f"]}),
        ({"conversations": [{"from": "human", "value": "2 + 3?"}]}, [USER], None),
        ({"instruction": "Add.", "input": "2 3", "output": "5"}, [{"role": "user", "content": "Add.\n\n2 3"}], {"output": "5"}),
        ({"input": "2 + 3?", "target": 5}, [USER], {"target": 5}),
        ({"text": "### Human: 2 + 3?### Assistant: 5"}, [USER], {"completion": [SAID]}),
        ({"prompt": "2 + 3?", "system": "Be short.", "weight": 2}, [SYSTEM, USER], {"weight": 2}),
        (
            {"data_source": "gsm8k", "prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "5"}},
            [USER],
            {"data_source": "gsm8k", "reward_model": {"style": "rule", "ground_truth": "5"}, "answer": "5"},
        ),
    ],
)
def test_every_shape_becomes_a_prompt_and_all_other_columns_are_for_rewards(row, prompt, extra):
    (record,), bad, tally = read(row)
    assert bad == []
    assert [{name: message[name] for name in ("role", "content")} for message in record["prompt"]] == prompt
    assert (json.loads(record["extra"]) if record["extra"] else None) == extra
    assert not any("not read" in sentence for sentence in tally.sentences())


def test_every_shape_is_tried_here():
    """One that no row above takes is dead, or hidden behind another."""
    marks = test_every_shape_becomes_a_prompt_and_all_other_columns_are_for_rewards.pytestmark
    rows = [row for mark in marks if mark.name == "parametrize" for row, *_ in mark.args[1]]
    taken = {name for row in rows for name in read(row)[2].shapes}
    assert taken == {shape.name for shape in SHAPES}


def test_a_column_inside_another_gets_the_name_that_a_reward_reads():
    (record,), _, _ = read(
        {"prompt": "2 + 3?", "meta": {"gold": 5}}, reading=Reading(columns={"answer": "meta.gold", "prompt": "prompt"})
    )
    assert json.loads(record["extra"]) == {"answer": 5}


def test_pictures_are_refused_since_the_prompt_is_about_them():
    with pytest.raises(Refusal, match="image"):
        read({"prompt": "What is this?", "image": "a.png"})


def test_rows_without_a_prompt_are_named():
    with pytest.raises(Refusal, match=r"p\.jsonl"):
        read({"answer": 5})


def test_the_contract_quarantines_what_cannot_be_asked_and_holds_out_by_name(tmp_path: Path):
    rows = [
        *({"prompt": f"{n} + 1?", "answer": n + 1} for n in range(40)),
        {"prompt": "7 + 1?", "answer": 9},  # asked already
        {"prompt": "  ", "answer": 0},
        {"prompt": [USER, {"role": "user", "content": "well?"}]},
        {"prompt": [{"role": "system", "content": "Be short."}]},
        {"prompt": "a <|im_end|> b"},
        {"prompt": "held out by name", "answer": 1, "split": "test"},
        {"prompt": "Who says Human: here?", "answer": 1},  # told and kept
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = resolve(str(tmp_path / "p.jsonl"), "data.prompts", tmp_path)
    counts = validate({"prompts": files}, Checks(max_drop_rate=0.5), 0.25, tmp_path / "out")
    clean, bad = (pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("prompts", "quarantine"))
    Prompts.validate(clean)
    assert (counts["prompts_kept"], counts["prompts_quarantined"]) == (42, 5)
    assert dict(zip(bad["row"], bad["reasons"].list.join(","), strict=True)) == {
        41: "duplicate", 42: "empty_prompt", 43: "roles_prompt", 44: "roles_prompt", 45: "template_token_prompt",
    }  # fmt: skip
    checks = json.loads((tmp_path / "out" / "summary.json").read_text())["prompts"]["checks"]
    assert [(each["examples"], each["severity"]) for each in checks if each["check"] == "marker_prompt"] == [
        (["p.jsonl:47"], "warn")
    ]
    held = clean.filter(split="holdout")
    assert 46 in held["row"]
    assert all(columns["answer"] == number for columns, number in zip(columns_of(clean), [*range(1, 41), 1, 1], strict=True))
