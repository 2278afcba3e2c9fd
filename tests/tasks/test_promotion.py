"""What each metric of `promote_on` asks for, and what is said where it is not reached."""

from __future__ import annotations

from typing import get_args

import pytest

from schemas.estimates import Estimate
from schemas.evaluation import Registry
from tasks.promotion import RULES, why_not_champion, why_not_first


def test_every_metric_that_a_recipe_may_name_has_a_rule():
    (names, _) = get_args(Registry.model_fields["promote_on"].annotation)
    assert set(get_args(names)) == set(RULES)


ACCURACY = {"preference_accuracy": 0.6, "preference_accuracy_high": 0.7}
FIRST = [
    ("preference_accuracy", {**ACCURACY, "preference_accuracy_low": 0.51}, None),
    (
        "preference_accuracy", {**ACCURACY, "preference_accuracy_low": 0.48},
        "promotion refused: version 1 prefers chosen more than its reference does in 60.0% of held-out pairs "
        "(95% interval 48.0% to 70.0%); the lower end must be above 50%, it is 2.0% short",
    ),
    ("validation_loss", {"validation_loss_falls": 0.0001}, None),
    (
        "validation_loss", {"validation_loss_falls": -0.138},
        "promotion refused: version 1 has a held-out loss -0.1380 below that at the start of its training; "
        "it must be above 0, it is 0.1380 short",
    ),
    ("validation_loss", {"validation_loss_falls": 0.0}, "it is 0.0000 short"),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "numbers", "said"), FIRST)
def test_the_first_version_must_be_better_than_what_it_came_from(metric, numbers, said):
    found = why_not_first(metric, "1", numbers)
    assert found is None if said is None else found.endswith(said)


AGAINST = [
    ("win_rate_vs_sft", Estimate(0.6, (0.51, 0.7)), None),
    ("win_rate_vs_sft", Estimate(0.6, (0.45, 0.75)), "wins 60.0% of held-out prompts against champion version 1"),
    ("preference_accuracy", Estimate(0.03, (0.01, 0.05)), None),
    (
        "preference_accuracy",
        Estimate(0.03, (-0.01, 0.07)),
        "a preference accuracy 3.0% above that of champion version 1 on the same",
    ),
    ("validation_loss", Estimate(0.02, (0.001, 0.04)), None),
    (
        "validation_loss",
        Estimate(0.02, (0.0, 0.04)),
        "a held-out loss 0.0200 below that of champion version 1 on the same held-out rows",
    ),
]


@pytest.mark.parametrize(("metric", "found", "said"), AGAINST)
def test_a_champion_is_beaten_where_the_whole_interval_is_beyond_chance(metric, found, said):
    """Chance is half of the prompts for a win rate, and no difference for the others."""
    refusal = why_not_champion(metric, "2", "champion version 1", found)
    assert refusal is None if said is None else said in refusal
