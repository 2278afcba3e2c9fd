"""What is said of a run that no rule refuses."""

from __future__ import annotations

import pytest

from posttrain.training.caution import of_recipe, of_stage
from schemas.load import validate_recipe
from schemas.recipe import Recipe

TOY = {"name": "posttrain.data.samples:sentiment"}

COURSES = [
    ({}, None),
    ({"validation_loss": 0.8}, None),
    ({"validation_loss_start": 0.6931, "validation_loss": 0.6}, None),
    ({"validation_loss_start": 0.6931, "validation_loss": 0.6931}, None),
    (
        {"validation_loss_start": 0.6931, "validation_loss": 0.8313},
        "align: held-out loss rose from 0.693 to 0.831: lower the learning rate or use keep: best",
    ),
    (
        {"validation_loss_start": 0.6931, "validation_loss": 0.6931, "validation_loss_last": 0.8313, "best_step": 0},
        "align: held-out loss rose from 0.693 to 0.831, and no step lowered it: the result is what the stage started from; "
        "lower the learning rate",
    ),
    (
        {"validation_loss_start": 0.6931, "validation_loss": 0.65, "validation_loss_last": 0.8313, "best_step": 12},
        "align: held-out loss rose from 0.693 to 0.831; the result is step 12 with 0.650: lower the learning rate",
    ),
    ({"validation_loss_start": 0.6931, "validation_loss": 0.65, "validation_loss_last": 0.66, "best_step": 12}, None),
]


@pytest.mark.parametrize(("metrics", "said"), COURSES)
def test_a_held_out_loss_that_rose_is_said_with_what_became_of_it(metrics, said):
    assert of_stage("align", metrics) == (() if said is None else (said,))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"critic_explains": 0.3}, []),
        (
            {"critic_explains": -0.4},
            ["explains 0% of the returns: GAE acts as a discount; use rloo or give it a rate of its own"],
        ),
        ({"critic_explains": 0.015}, ["explains 2% of the returns"]),
        ({"iterations_without_variance": 4.0}, []),
        ({"iterations_without_variance": 5.0}, ["for 5 iterations: nothing is learned"]),
    ],
)
def test_a_critic_that_explains_nothing_and_prompts_that_teach_nothing_are_said(metrics, said):
    found = of_stage("align", metrics)
    assert len(found) == len(said)
    assert all(sentence.startswith("align: ") and words in sentence for sentence, words in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("data", "judge", "warned"),
    [("pairs.jsonl", TOY, True), ("sample://preferences", TOY, False), ("pairs.jsonl", {"name": "my:judge"}, False),
     ("pairs.jsonl", None, False)],
)  # fmt: skip
def test_the_toy_judge_on_other_data_is_warned_of(data, judge, warned):
    document = {
        "name": "t", "model": {"source": "local", "path": "m"}, "data": {"preferences": data},
        "alignment": {"algorithm": "dpo"}, "evaluation": {"judge": judge},
    }  # fmt: skip
    said = of_recipe(Recipe.model_validate(document))
    assert len(said) == warned
    assert all("toy sentiment judge for the sample reviews" in sentence for sentence in said)


@pytest.mark.parametrize(("trained", "judged", "said"), [(0.7, 1.0, 1), (0.7, 0.7, 0)])
def test_a_policy_that_is_judged_at_another_temperature_than_it_was_optimised_at_is_said(trained, judged, said):
    document = {
        "name": "tiny", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"}, "reward": {},
        "alignment": {"algorithm": "ppo", "reward": {"source": "model"}, "temperature": trained},
        "evaluation": {"temperature": judged},
    }  # fmt: skip
    warnings = of_recipe(Recipe.model_validate(document))
    assert len(warnings) == said
    assert all("evaluation.temperature: 1, while alignment optimises answers at temperature 0.7" in each for each in warnings)


@pytest.mark.parametrize(("mode", "calls", "said"), [
    ("pairwise", 1151, 1152), ("pairwise", 1152, ()), ("pointwise", 895, 896), ("pointwise", 896, ()),
])  # fmt: skip
def test_a_judge_that_may_not_be_asked_often_enough_is_warned_of(mode, calls, said):
    """256 prompts against two ancestors in both orders, or of three policies, and 64 pairs with two answers each."""
    judge = {"source": "endpoint", "url": "https://h/v1", "model": "m", "mode": mode, "max_calls": calls}
    document = {
        "name": "judged", "model": {"source": "local", "path": "m"}, "data": {"instructions": "i", "preferences": "p"},
        "sft": {}, "alignment": {"algorithm": "dpo"}, "evaluation": {"judge": judge},
    }  # fmt: skip
    found = of_recipe(validate_recipe(document, "test"))
    assert bool(found) == bool(said)
    assert all(f"{said:,} questions" in sentence for sentence in found)
