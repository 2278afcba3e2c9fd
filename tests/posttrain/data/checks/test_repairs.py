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


def said(role: str, text: str) -> dict[str, str | None]:
    return {"role": role, "content": text, "extra": None}


def mended(repair: str, prompt: str, chosen: str, rejected: str = "no") -> tuple[list[str], bool]:
    """Contents of one row after a repair, and whether it was changed."""
    columns = {
        name: [[said(role, text)]]
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
        ("strip_prompt_prefix", ("Tell me of Paris now", "Tell me of Paris now 7", "x"), ["Tell me of Paris now", "7", "x"]),
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
        ("strip_prompt_prefix", (" Tell me of Rome now ", " Tell me of Rome now 7", "x")),  # 19 characters between its blanks
        ("redact_personal", ("1.2.3", "at example", "x@")),
    ],
)
def test_what_is_left_alone(repair, given):
    assert mended(repair, *given) == (list(given), False)


def test_a_prompt_is_cut_off_where_it_stands_and_from_no_other_row():
    """The prompt's last message counts, of answers of one message: row 1 is mended, and the others stay as they are."""
    greeting, question, plain = (said(role, text) for role, text in (("assistant", "Hello."), ("user", ASKED), ("user", "Why?")))
    answer = said("assistant", f"{ASKED} Paris.")
    rows = [
        ([greeting, question], [answer]),
        ([question, greeting, plain], [answer]),  # its first message stands there
        ([question], [answer, question, answer]),
        ([plain], [answer]),
        ([], [answer]),
        ([question], []),
    ]
    table = pl.DataFrame(
        {"prompt": [row[0] for row in rows], "chosen": [row[1] for row in rows]},
        schema={name: COLUMNS[name] for name in ("prompt", "chosen")},
    )
    new, changed = REPAIRS["strip_prompt_prefix"](table, LIMITS)
    assert changed.tolist() == [True, False, False, False, False, False]
    assert new["chosen"].to_list() == [[said("assistant", "Paris.")], *(row[1] for row in rows[1:])]
    assert new["prompt"].to_list() == [row[0] for row in rows]


@pytest.mark.parametrize("nothing", [[], None])
def test_rows_without_messages_stay(nothing):
    empty = pl.DataFrame(
        {name: [nothing] for name in ("prompt", "chosen", "rejected")},
        schema={n: COLUMNS[n] for n in ("prompt", "chosen", "rejected")},
    )
    for repair in REPAIRS.values():
        new, changed = repair(empty, LIMITS)
        assert new.equals(empty)
        assert not changed.any()
