"""The sentence at the top of a report: what a person can do, for each way in which a run can end."""

from __future__ import annotations

import pytest

from posttrain.report.decision import advice, verdict
from schemas.results import Failure


def of(run, **changed):
    return run.model_copy(update=changed)


def test_a_champion_needs_nothing_and_can_be_taken_back(recipe, run):
    assert verdict(recipe, run) == "passed"
    assert advice(recipe, run) == (
        "Nothing has to be done: whoever loads models:/reviews@champion gets version 3 from now on; "
        '`posttrain rollback reviews --because "..."` takes that back.'
    )


def test_a_challenger_is_to_be_compared_and_may_be_promoted_by_hand(recipe, run):
    held = of(run, model=run.model.model_copy(update={"alias": "challenger"}))
    assert verdict(recipe, held) == "held"
    assert "posttrain compare models:/reviews@champion models:/reviews/3" in advice(recipe, held)
    assert 'posttrain promote models:/reviews/3 --because "..."' in advice(recipe, held)


def test_a_failed_gate_is_named_with_what_was_measured_and_asked(recipe, run):
    gate = run.gates[1].model_copy(update={"value": 0.41, "passed": False})
    refused = of(run, gates=(run.gates[0], gate), model=None)
    assert verdict(recipe, refused) == "refused"
    assert "since win_rate_vs_sft is 0.41, asked is interval above 0.5: read the worst answers below" in advice(recipe, refused)


def test_a_failure_says_its_remedy_and_a_run_without_registry_how_to_have_one(recipe, run):
    failed = of(run, status="failed", error=Failure(stage="align", message="diverged", remedy="lower the rate"), model=None)
    assert (verdict(recipe, failed), advice(recipe, failed)) == ("failed", "What to do: lower the rate.")
    plain = recipe.model_copy(update={"registry": None})
    assert "add a registry section" in advice(plain, of(run, model=None))


@pytest.mark.parametrize("alias", ["champion", "challenger", None])
def test_every_sentence_ends_and_is_one_line(recipe, run, alias):
    said = advice(recipe, of(run, model=run.model.model_copy(update={"alias": alias})))
    assert said.endswith(".")
    assert "\n" not in said
