"""Checks in words: which fields of a recipe are named, with what they are where it says nothing."""

from __future__ import annotations

import pytest

from posttrain.data.checks.explain import check_in_words, checks_table
from schemas.errors import Refusal


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("prompt_mismatch", ["prompt_mismatch_fail = 0.01", "several_turns = false"]),
        ("language", ["languages = none", "severity: {language: off | warn | drop}", "fail_above: {language: SHARE}"]),
        ("personal", ["personal = email, ip, phone, card, iban, secret", "severity: {personal: off | warn | drop}",
                      "fail_above: {personal: SHARE}"]),
        ("contaminated", ["decontaminate = none", "severity: {contaminated: off | warn | drop}",
                          "fail_above: {contaminated: SHARE}"]),
        ("identical", []),
    ],
)  # fmt: skip
def test_fields_stand_with_their_defaults(name, fields):
    lines = check_in_words(name).splitlines()
    assert lines[0] == name
    assert [line for line in lines if "data.checks." in line] == [f"  data.checks.{field}" for field in fields]
    assert check_in_words(name).endswith("\n")


def test_what_mends_rows_is_the_last_line_where_something_does():
    assert check_in_words("template_token").splitlines()[-1] == "  repair: strip_template_tokens cuts it off ends"
    assert "repair" not in check_in_words("roles")


@pytest.mark.parametrize("side", ["chosen", "rejected", "completion", "prompt"])
def test_a_check_of_a_side_is_its_check(side):
    assert check_in_words(f"marker_{side}") == check_in_words("marker")
    assert check_in_words("empty_prompt").splitlines()[0] == "empty_prompt"


def test_a_name_that_is_near_none_is_refused_with_where_the_names_stand():
    with pytest.raises(Refusal) as caught:
        check_in_words("quux")
    assert (caught.value.where, caught.value.found) == ("--explain", "quux")
    assert caught.value.allowed.startswith("shapes, checks, or one of empty_prompt, empty, roles, ")
    assert caught.value.remedy == "posttrain validate --explain checks lists them"


def test_the_table_has_a_line_for_each_check():
    lines = checks_table().splitlines()
    assert lines[:2] == ["| check | finds | what follows | fields | repair |", "|---|---|---|---|---|"]
    assert (
        "| `duplicate_prompt` | a prompt that came before in its split | it is counted, and shown with examples | `severity` |  |"
        in lines
    )
    assert "| `tied_scores` | two sides with the same score | the row is quarantined |  |  |" in lines
