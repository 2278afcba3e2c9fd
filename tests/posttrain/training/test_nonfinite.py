"""Steps that are not finite: skipped without a trace, counted, and the end of a run when they come in a row."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from posttrain.scoring.scorer import Scorer
from posttrain.training.loop import Job, train
from posttrain.training.nonfinite import TrainingDiverged
from posttrain.training.objectives import LanguageModelling

CPU = torch.device("cpu")
CONSTANT = {"schedule": "constant", "warmup_share": 0}


@dataclass(frozen=True)
class Poisoned(LanguageModelling):
    """Language modelling whose loss, or only whose gradient, is not finite on some rows."""

    bad: frozenset[int] = frozenset()
    gradient_only: bool = False

    def loss(self, scores, rows):
        total, extra = super().loss(scores, rows)
        if not self.bad & set(rows):
            return total, extra
        return (total + (scores.logprobs.sum() * 0).sqrt() if self.gradient_only else total * torch.nan), extra


@dataclass(frozen=True)
class Steep(LanguageModelling):
    """Language modelling in other units: its gradient is `factor` times as long."""

    factor: float = 1.0

    def loss(self, scores, rows):
        total, extra = super().loss(scores, rows)
        return total * self.factor, extra


@pytest.fixture
def poisoned(objective):
    """Builds an objective that is not finite on some of six rows."""
    return lambda *bad, gradient_only=False: Poisoned(objective().examples, frozenset(bad), gradient_only)


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_step_that_is_not_finite_is_skipped_counted_and_leaves_no_trace(job, poisoned, tiny_llama, points, gradient_only):
    """At a constant rate, steps on rows 0, 5 (bad), 1 train what steps on 0, 1 train. √x has no slope at 0."""

    def run(name: str, plan: list[list[int]]) -> tuple[Job, dict]:
        objective = poisoned(5, gradient_only=gradient_only)
        made = job(name, plan=plan, objective=objective, spec=CONSTANT, scorer=Scorer(tiny_llama(), CPU))
        return made, train(made)

    left, summary = run("poisoned", [[0], [5], [1]])
    clean, clean_summary = run("clean", [[0], [1]])
    assert (summary["skipped_steps"], summary["steps"]) == (1, 3)
    assert clean_summary["skipped_steps"] == 0
    weights, expected = (each.scorer.model.state_dict() for each in (left, clean))
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    assert ["loss" in point for point in points(left.out)] == [True, False, True]


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_three_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_rows(job, poisoned, log_every):
    """Also where the host looks at the outcome of several steps at once."""
    plan = [[0], [3], [4, 1], [5, 0], [1], [0], [1]]
    made = job(objective=poisoned(3, 4, 5), plan=plan, log_every=log_every, places=lambda rows: [f"f:{row}" for row in rows])
    with pytest.raises(TrainingDiverged, match=r"3 steps in a row, the last at step 4 on training rows f:5, f:0;"):
        train(made)


def test_without_names_rows_are_named_by_their_index(job, poisoned):
    with pytest.raises(TrainingDiverged, match="rows 2;"):
        train(job(objective=poisoned(0, 1, 2), plan=[[0], [1], [2], [3]]))


@pytest.mark.parametrize("log_every", [1, 4])
def test_skips_that_are_not_in_a_row_do_not_stop_the_run(job, poisoned, log_every):
    summary = train(job(objective=poisoned(5), plan=[[5], [5], [0], [5], [5], [1]], log_every=log_every))
    assert summary["skipped_steps"] == 4


def test_a_run_of_which_no_step_was_finite_is_an_error(job, poisoned):
    with pytest.raises(TrainingDiverged, match="every one of the 2 steps"):
        train(job(objective=poisoned(0, 1), plan=[[0], [1]]))


def test_skips_on_both_sides_of_an_interruption_are_in_a_row(job, poisoned, stop_at):
    """Steps 2, 3 and 4 are not finite; the run dies as step 4 would have been its third, and resumes from step 3."""
    plan = [[0], [5], [5], [5], [1]]
    with pytest.raises(KeyboardInterrupt):
        train(job(objective=poisoned(5), plan=plan, checkpoint_seconds=1e-9, progress=stop_at(3)))
    with pytest.raises(TrainingDiverged, match="at step 4 "):
        train(job(objective=poisoned(5), plan=plan, checkpoint_seconds=1e-9))


def test_overflows_of_float16_halve_the_scale_and_are_no_divergence(job, scorer, objective):
    """Gradients 2^12 times as long overflow at the first scales; more than three steps are lost until one fits."""
    steep = Steep(objective().examples, factor=2.0**12)
    made = job(objective=steep, plan=[[0, 1]] * 20, scorer=scorer("lora", torch.float16))
    summary = train(made)
    assert summary["skipped_steps"] == 0
    assert 3 < summary["overflow_steps"] < 19


def test_a_loss_that_is_not_finite_stops_float16_too(job, scorer, poisoned):
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        train(job(objective=poisoned(0, 1, 2), plan=[[0], [1], [2], [3]], scorer=scorer("lora", torch.float16)))


def test_a_scale_below_one_is_divergence(job, scorer, objective):
    """A gradient that overflows under every scale: 16 halvings from 2^16 to 1, and then the usual patience."""
    endless = Steep(objective().examples, factor=1e30)
    with pytest.raises(TrainingDiverged, match="3 steps in a row, the last at step 19 "):
        train(job(objective=endless, plan=[[0]] * 40, scorer=scorer("lora", torch.float16)))
