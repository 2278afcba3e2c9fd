"""The loss on held-out examples, the best weights by it, and the early end that it brings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from posttrain.runtime.partial import CHECKPOINT
from posttrain.training.batches import by_rows
from posttrain.training.checkpoint import Position
from posttrain.training.loop import train
from posttrain.training.objectives import LanguageModelling
from posttrain.training.validation import (
    enter_loss,
    exhausted,
    is_lowest,
    loss_at_start,
    mean_loss,
    validation_steps,
    validations_of,
)
from schemas.training import SFT, EarlyStop

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Scripted(LanguageModelling):
    """A validation loss that is read from a list, one value for each validation; the list belongs to the run."""

    script: list[float] = field(default_factory=list)

    def loss(self, scores, rows):
        return torch.tensor(self.script.pop(0) * self.units(rows)), {}


@pytest.fixture
def scripted(objective):
    """Builds a validation whose losses are these."""
    return lambda *losses: Scripted(objective().examples[:1], list(losses))


def state(job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in job.scorer.model.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_validation_is_the_mean_loss_without_dropout_and_leaves_the_mode_alone(job, scorer, objective):
    """The last point's validation loss is what the trained policy gives afterwards."""
    held_out = objective("lm")
    made = job(method="lora", validation=held_out)
    summary = train(made)
    assert summary["validation_loss"] == pytest.approx(mean_loss(made.scorer, held_out, 10**6), rel=1e-5)
    training = scorer("lora").train()
    assert mean_loss(training, held_out, 10**6) == mean_loss(training, held_out, 10**6)
    assert training.training


def test_mean_loss_by_hand(scorer, objective):
    """Sum of the negative log-probabilities over all targets, divided by their number, 60: 11, 5, 12, 11, 11, 10 per pair."""
    policy, held_out = scorer(), objective("lm")
    logprobs = torch.cat([policy([example]).logprobs for example in held_out.examples])
    assert len(logprobs) == 60
    assert mean_loss(policy, held_out, 25) == pytest.approx(-float(logprobs.detach().mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "validations", "expected"),
    [(9, 3, {3, 6, 9}), (10, 4, {3, 5, 8, 10}), (3, 8, {1, 2, 3}), (7, 1, {7}), (0, 8, {0})],
)
def test_validations_are_spread_evenly_and_end_with_the_last_step(steps, validations, expected):
    assert validation_steps(steps, validations) == expected


@pytest.mark.parametrize(
    ("given", "trained", "held_out", "expected"),
    [
        ({}, 1000, 30, 8),  # a measurement costs 10 rows: 10 are a tenth of 1,000
        ({}, 600, 30, 6),
        ({}, 308, 24, 4),  # 3.85
        ({}, 100, 128, 4),
        ({}, 100, 0, 8),
        ({"early_stop": {"patience": 2}}, 308, 24, 8),
        ({"validations": 12}, 308, 24, 12),
    ],
)
def test_measuring_takes_a_tenth_of_the_time_unless_the_recipe_says_how_often(given, trained, held_out, expected):
    assert validations_of(SFT(**given), trained, held_out) == expected


def test_the_recipe_says_how_often_to_validate(job, objective, points):
    made = job(validation=objective(), spec={"validations": 3})
    train(made)
    assert [point["step"] for point in points(made.out) if "validation_loss" in point] == [0, 3, 6, 9]


def test_without_a_word_it_follows_from_the_rows_of_all_steps_and_those_held_out(job, objective, points):
    """20 steps of 6 rows are 120; measuring 6 costs as much as 2 of them: six times are a tenth."""
    made = job(validation=objective(), plan=by_rows(6, 6, 20, seed=0))
    train(made)
    assert [point["step"] for point in points(made.out) if "validation_loss" in point] == [0, 4, 7, 10, 14, 17, 20]


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stale", "best"),
    [
        ([3, 2, 1], 2, 0, [0, 0, 0], (1, 3)),
        ([3, 4, 3, 2], 2, 0, [0, 1, 2, 0], (2, 4)),  # equal is no improvement
        ([NAN, 2, NAN, INF], 2, 0, [1, 0, 1, 2], (2, 2)),
        # 0.3 lower than the last is no improvement of 0.5; 0.6 lower than the last improvement is one. The lowest is kept anyway.
        ([3, 2.7, 2.4], 2, 0.5, [0, 1, 0], (2.4, 3)),
        ([3, 2.7, 2.6], 2, 0.5, [0, 1, 2], (2.6, 3)),
    ],
)
def test_patience_by_hand(losses, patience, min_delta, stale, best):
    rule, position, found = EarlyStop(patience=patience, min_delta=min_delta), Position(), []
    for position.step, loss in enumerate(losses, 1):
        before = position.best_loss
        assert is_lowest(position, loss) == (loss < before)
        enter_loss(position, loss, rule)
        found.append(position.stale)
        assert exhausted(position, rule) == (position.stale >= patience)
        assert not exhausted(position, None)
    assert found == stale
    assert (position.best_loss, position.best_step) == best


def test_training_stops_when_patience_is_at_its_end(job, scripted):
    """Losses 4 at the start, 3, 2, 2.5, 2: the second validation without an improvement is the one after step 4 of 9."""
    constant = {"schedule": "constant", "warmup_share": 0}
    early = constant | {"early_stop": {"patience": 2}, "validations": 9}
    stopped = job("stopped", validation=scripted(4, 3, 2, 2.5, 2, 1), spec=early)
    summary = train(stopped)
    assert (summary["steps"], summary["best_step"], summary["best_validation_loss"]) == (4, 2, 2)
    four = job("four", plan=stopped.plan[:4], spec=constant)
    train(four)
    assert equal(state(four), state(stopped))  # what is kept by default is the last step


def test_the_weights_of_the_lowest_validation_loss_are_kept(job, scripted):
    """They are those that a run ends with which has only as many steps, at a constant rate; the summary names the step."""
    constant = {"schedule": "constant", "warmup_share": 0}
    best = job(
        "best",
        method="lora",
        validation=scripted(4, 3, 1, 2, 1, 4, 4, 4, 4, 4),
        spec=constant | {"keep": "best", "validations": 9},
    )
    summary = train(best)
    assert (summary["best_step"], summary["steps"]) == (2, 9)
    two = job("two", method="lora", plan=best.plan[:2], spec=constant)
    train(two)
    assert equal(state(best), state(two))
    assert not best.scorer.training


def test_where_no_step_lowers_the_loss_the_start_is_kept(job, scripted, stop_at):
    """0.7 before the first step and 0.8 after each: the result is what training started from, also after a kill."""
    rule = {"keep": "best", "validations": 9}
    made = job("whole", method="lora", validation=scripted(0.7, *[0.8] * 8, 0.9), spec=rule)
    start = state(made)
    summary = train(made)
    assert equal(state(made), start)
    found = {name: summary[name] for name in ("best_step", "validation_loss_start", "validation_loss", "validation_loss_last")}
    assert found == pytest.approx(
        {"best_step": 0, "validation_loss_start": 0.7, "validation_loss": 0.7, "validation_loss_last": 0.9}
    )
    cut = {"method": "lora", "spec": rule, "checkpoint_seconds": 1e-9}
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", validation=scripted(0.7, *[0.8] * 6), progress=stop_at(6), **cut))
    resumed = job("cut", validation=scripted(*[0.8] * 3, 0.9), **cut)
    assert {name: value for name, value in train(resumed).items() if name in found} == found
    assert equal(state(resumed), start)


def test_the_last_weights_and_their_loss_are_the_result_where_the_recipe_asks(job, scripted):
    made = job(validation=scripted(0.7, 0.6, 0.8), spec={"keep": "last", "validations": 2})
    summary = train(made)
    assert (summary["validation_loss_start"], summary["validation_loss"]) == pytest.approx((0.7, 0.8))
    assert "validation_loss_last" not in summary


def test_the_loss_at_the_start_is_known_where_policy_and_reference_are_equal(scorer, objective):
    """ln 2 for DPO; with an SFT term it takes a pass over the pairs."""
    policy, pairs = scorer(), objective("dpo")
    assert loss_at_start(policy, pairs, 10**6) == pytest.approx(math.log(2), rel=1e-6)
    assert mean_loss(policy, pairs, 10**6) == pytest.approx(math.log(2), rel=1e-5)
    weighted = replace(pairs, sft_weight=0.5)
    assert loss_at_start(policy, weighted, 10**6) == mean_loss(policy, weighted, 10**6) > 1


def test_a_loss_at_the_start_that_is_no_number_is_left_out(job, scripted):
    """Then the last weights are the result, and no number of the run is infinite."""
    summary = train(job(validation=scripted(NAN, NAN, NAN), spec={"keep": "best", "validations": 2}))
    assert not {"validation_loss_start", "validation_loss", "best_validation_loss"} & summary.keys()


def test_the_best_weights_survive_a_run_that_dies(job, scripted, stop_at):
    """The best step is 3. Dead as step 6 is reported; the resumed run, which never saw step 3, ends in its weights.

    A checkpoint comes with each new best, so that the two agree about what the best is.
    """
    rule = {"keep": "best", "validations": 9}
    losses = (6, 5, 4, 1, 2, 2, 2, 2, 2, 2)
    whole = job("whole", validation=scripted(*losses), spec=rule)
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", validation=scripted(*losses), spec=rule, progress=stop_at(6)))
    folder = whole.out.parent / "cut" / CHECKPOINT
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")) == [
        "000000003/trainable.safetensors",
        "best/000000003.safetensors",
    ]
    resumed = job("cut", validation=scripted(*losses[4:]), spec=rule)
    assert train(resumed)["best_step"] == 3
    assert equal(state(resumed), state(whole))


def test_patience_survives_a_run_that_dies(job, scripted, stop_at):
    """Losses 5, 4, 4, 4 stop after step 4; the run dies before that and has checkpoints at every step."""
    rule = {"early_stop": {"patience": 2}, "validations": 9}
    with pytest.raises(KeyboardInterrupt):
        train(job(validation=scripted(6, 5, 4, 4, 4), spec=rule, progress=stop_at(4), checkpoint_seconds=1e-9))
    assert train(job(validation=scripted(4, 4, 4), spec=rule, checkpoint_seconds=1e-9))["steps"] == 4
