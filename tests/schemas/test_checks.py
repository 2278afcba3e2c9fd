"""What a recipe may say of checks and of KTO, and how a mistake is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.checks import UNSAID, Checks
from schemas.data import Data
from schemas.errors import Refusal
from schemas.load import validate_recipe
from schemas.training import DPO

DOCUMENT = {"name": "t", "model": {"source": "hub", "name": "a/b"}, "alignment": {"algorithm": "dpo", "loss": "kto"}}


def recipe(data: dict, **alignment):
    return validate_recipe(DOCUMENT | {"data": data, "alignment": DOCUMENT["alignment"] | alignment}, "t.yaml")


def refusal(data: dict, **alignment) -> Refusal:
    with pytest.raises(Refusal) as caught:
        recipe(data, **alignment)
    return caught.value


@pytest.mark.parametrize(
    ("checks", "where", "found", "allowed"),
    [
        ({"waive": {"length_bias": "x"}}, "data.checks.waive.length_bias", "'x'", "3 characters"),
        ({"severity": {"marker": "fail"}}, "data.checks.severity.marker", "'fail'", "off"),
        ({"repair": ["strip"]}, "data.checks.repair.0", "'strip'", "strip_zero_width"),
        ({"languages": ["English"]}, "data.checks.languages.0", "'English'", "pattern"),
        ({"near_prompt": 2}, "data.checks.near_prompt", "2", "less than or equal to 1"),
    ],
)
def test_a_wrong_check_is_named(checks, where, found, allowed):
    caught = refusal({"feedback": "f.jsonl", "checks": checks})
    assert caught.where == where
    assert found in caught.found
    assert allowed in caught.allowed


def test_a_list_of_checks_waives_them_without_a_reason():
    assert Checks.model_validate({"waive": ["length_bias"]}).waive == {"length_bias": UNSAID}
    assert {Checks.model_validate({"waive": {"conflict": "known"}}): 1}  # a key of caches


def test_kto_reads_feedback_where_there_is_some_and_else_pairs():
    assert recipe({"feedback": "f", "preferences": "p"}).dataset("align") == "feedback"
    assert recipe({"preferences": "p"}).dataset("align") == "preferences"
    assert recipe({"feedback": "f"}).prompts_table == "feedback"
    assert refusal({"instructions": "i"}).where == "data.feedback"


def test_feedback_that_nothing_trains_on_is_refused():
    caught = refusal({"feedback": "f", "preferences": "p"}, loss="sigmoid")
    assert (caught.where, caught.allowed) == ("data.feedback", "null, or alignment.loss kto")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"loss": "sigmoid", "desirable_weight": 2.0}, "alignment.desirable_weight"),
        ({"loss": "kto", "sft_weight": 1.0}, "alignment.sft_weight"),
        ({"loss": "kto", "label_smoothing": 0.1}, "alignment.label_smoothing"),
        ({"loss": "kto", "batch_size": 1}, "alignment.batch_size"),
        ({"loss": "kto", "desirable_weight": 0.0, "undesirable_weight": 0.0}, "alignment.desirable_weight"),
    ],
)
def test_numbers_without_a_meaning_are_refused(fields, where):
    with pytest.raises(ValidationError, match=where.replace(".", r"\.")):
        DPO.model_validate({"algorithm": "dpo"} | fields)


def test_validation_losses_of_kto_are_not_compared_between_policies():
    """Each is measured by the policy's own divergence."""
    document = DOCUMENT | {"data": {"feedback": "f"}, "registry": {"model": "m", "promote_on": "validation_loss"}}
    with pytest.raises(Refusal) as caught:
        validate_recipe(document, "t.yaml")
    assert caught.value.where == "registry.promote_on"
    assert Data(feedback="f").feedback == "f"
