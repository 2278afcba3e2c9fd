"""Repairs: what each changes, and what it leaves alone."""

# ruff: noqa: RUF001 - letters of other scripts are what is tested

from __future__ import annotations

from typing import get_args

import polars as pl
import pytest

from posttrain.data.checks.repairs import REPAIRS
from posttrain.data.preferences import COLUMNS
from schemas.checks import Checks, Repair

LIMITS = Checks(personal=("email",))
ASKED = "What is the capital of France, please?"


def mended(repair: str, prompt: str, chosen: str, rejected: str = "no") -> tuple[list[str], bool]:
    """Contents of one row after a repair, and whether it was changed."""
    columns = {
        name: [[{"role": role, "content": text, "extra": None}]]
        for name, role, text in (("prompt", "user", prompt), ("chosen", "assistant", chosen), ("rejected", "assistant", rejected))
    }
    table = pl.DataFrame(columns, schema={name: COLUMNS[name] for name in columns})
    new, changed = REPAIRS[repair](table, LIMITS)
    assert new.schema == table.schema
    assert changed.tolist() == [not new.equals(table)]
    return [new[name].to_list()[0][0]["content"] for name in columns], bool(changed[0])


def test_the_recipe_names_every_repair():
    assert set(get_args(Repair)) == set(REPAIRS)


@pytest.mark.parametrize(
    ("repair", "given", "becomes"),
    [
        ("strip_zero_width", ("a\u200bb", "\ufeffc", "d\u2060"), ["ab", "c", "d"]),
        ("strip_template_tokens", ("keep <|im_end|>", "yes <|im_end|>\n", "no</s><|eot_id|>"), ["keep <|im_end|>", "yes", "no"]),
        ("strip_prompt_prefix", (ASKED, f"{ASKED}\n\nParis.", "Lyon."), [ASKED, "Paris.", "Lyon."]),
        ("redact_personal", ("mail me@example.com", "ok", "x"), ["mail [EMAIL]", "ok", "x"]),
    ],
)
def test_what_is_mended(repair, given, becomes):
    assert mended(repair, *given) == (becomes, True)


@pytest.mark.parametrize(
    ("repair", "given"),
    [
        ("strip_zero_width", ("नमस्\u200dते", "می\u200cخواهم", "👩\u200d💻")),  # joiners are part of the spelling
        ("strip_template_tokens", ("x", "the token <|im_end|> ends a turn", "<s> starts a text")),
        ("strip_prompt_prefix", (ASKED, ASKED, "What is the capital of Spain, please? Madrid.")),  # nothing would be left
        ("strip_prompt_prefix", ("Yes or no?", "Yes or no? Yes.", "x")),  # too short to be no coincidence
        ("redact_personal", ("1.2.3", "at example", "x@")),
    ],
)
def test_what_is_left_alone(repair, given):
    assert mended(repair, *given) == (list(given), False)


def test_rows_without_messages_stay():
    empty = pl.DataFrame(
        {"prompt": [[]], "chosen": [[]], "rejected": [[]]}, schema={n: COLUMNS[n] for n in ("prompt", "chosen", "rejected")}
    )
    for repair in REPAIRS.values():
        new, changed = repair(empty, LIMITS)
        assert new.equals(empty)
        assert not changed.any()
