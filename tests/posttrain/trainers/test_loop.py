"""The loop: accumulation, learning, exact resume, skipped steps and divergence."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

import posttrain.trainers.loop as loop
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.progress import Quiet
from posttrain.reference import score_branches
from posttrain.scoring import Scorer
from posttrain.store import CHECKPOINT
from posttrain.trainers.loop import CURVE, Job, TrainingDiverged, make_optimizer, mean_loss, train
from posttrain.trainers.objectives import LanguageModelling, Preference
from posttrain.trainers.plan import by_rows
from schemas.recipe import Compute
from schemas.training import Full, Optimization

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6), (7, 8, 3), (4, 2, 9), (6, 5, 5)]  # of prompt, chosen, rejected
SPEC = Optimization(learning_rate=0.01, weight_decay=0.1)


class Interrupted(RuntimeError):
    """What a run dies of in these tests."""


class StopAt(Quiet):
    """Raises when a step is reported."""

    def __init__(self, step: int) -> None:
        self.step = step

    def advance(self, done, metrics):
        if done == self.step:
            raise Interrupted


@pytest.fixture
def scorer(tiny_llama, lora):
    """Builds a fresh policy: the same one each time."""

    def build(method: str = "full") -> Scorer:
        # Dropout, so that a run which does not restore the random state ends elsewhere.
        spec = {"full": Full(method="full"), "lora": lora(dropout=0.2)}[method]
        changes = {"attention_dropout": 0.2} if method == "full" else {}
        return Scorer(wrap(tiny_llama(**changes), spec, 0, "sft.peft"), CPU).eval()

    return build


@pytest.fixture
def objective(random_examples, scorer):
    """Builds language modelling or DPO on six pairs."""

    def build(kind: str = "lm"):
        pairs = random_examples(SIZES)
        return LanguageModelling(pairs) if kind == "lm" else Preference(pairs, score_branches(scorer(), pairs, 10**6), beta=0.1)

    return build


@pytest.fixture
def job(tmp_path, scorer, objective):
    """Builds a job of 3 epochs of 3 steps with a point of the curve at each step."""

    def build(name: str = "run", method: str = "full", kind: str = "lm", **changes) -> Job:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        compute = Compute(log_every=1, checkpoint_seconds=changes.pop("checkpoint_seconds", 1e6))
        defaults = {"plan": by_rows(6, 2, 3, seed=0), "spec": SPEC, "progress": Quiet()}
        defaults |= {"objective": objective(kind), "scorer": scorer(method)}
        return Job(name=name, compute=compute, out=out, **defaults | changes)

    return build


def curve(job: Job) -> list[dict]:
    points = [json.loads(line) for line in (job.out / CURVE).read_text().splitlines()]
    return [{name: value for name, value in point.items() if name != "seconds"} for point in points]


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in job.scorer.model.state_dict().items()}


def assert_bit_identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("kind", ["lm", "dpo"])
def test_micro_batches_add_up_to_the_gradient_of_one_big_batch(job, tiny_llama, monkeypatch, kind):
    """Same loss, gradient norm and metrics at every step; examples differ in length, so a mean of means would be off."""
    plan = by_rows(6, 6, 4, seed=0)

    def run(name: str, budget: int) -> Job:
        monkeypatch.setattr(loop, "MICRO_BATCH_TOKENS", {"cpu": budget})
        made = job(name, kind=kind, plan=plan, scorer=Scorer(tiny_llama().train(), CPU))
        train(made)
        return made

    whole, parts = run("whole", 10**6), run("parts", 20)
    assert len(curve(whole)) == 4
    for one, many in zip(curve(whole), curve(parts), strict=True):
        if one["step"] == 1:  # margins are 0 before the first step: their sign, and so the accuracy, is rounding
            one.pop("accuracy", None), many.pop("accuracy", None)
        assert many == pytest.approx(one, rel=1e-4, abs=1e-6)
    for one, many in zip(weights(whole).values(), weights(parts).values(), strict=True):
        torch.testing.assert_close(many, one, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("kind", "start"), [("lm", 4.57), ("dpo", 0.6931)])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_falls(job, method, kind, start):
    """A random model starts near ln 97 = 4.57 per token; DPO starts at ln 2. LoRA on two layers moves less."""
    made = job(method=method, kind=kind, plan=by_rows(6, 6, 25, seed=0))
    summary = train(made)
    points = curve(made)
    assert points[0]["loss"] == pytest.approx(start, rel=0.03)
    assert summary["loss"] == points[-1]["loss"] < 0.99 * points[0]["loss"]
    assert summary["steps"] == len(points) == 25


@pytest.mark.parametrize("kind", ["lm", "dpo"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_ends_in_the_weights_and_the_curve_of_an_uninterrupted_one(job, objective, method, kind):
    """Checkpoints after every step; the run dies while it reports step 5, whose curve point is written and checkpoint is not."""
    validated = {"validation": objective(kind)}
    whole = job("whole", method, kind, **validated)
    summary = train(whole)

    first = job("cut", method, kind, checkpoint_seconds=1e-9, progress=StopAt(5), **validated)
    with pytest.raises(Interrupted):
        train(first)
    assert [path.name for path in (first.out / CHECKPOINT).iterdir()] == ["000000004"]
    torch.manual_seed(99)  # another process has another random state
    second = job("cut", method, kind, checkpoint_seconds=1e-9, **validated)
    torch.manual_seed(98)
    resumed = train(second)

    assert_bit_identical(weights(second), weights(whole))
    assert curve(second) == curve(whole)
    assert [point["step"] for point in curve(second)] == list(range(1, 10))
    assert {**resumed, "tokens_per_second": 0} == {**summary, "tokens_per_second": 0}


def test_a_run_that_is_interrupted_twice_still_ends_the_same(job):
    whole = job("whole")
    train(whole)
    for step in (3, 7):
        with pytest.raises(Interrupted):
            train(job("cut", checkpoint_seconds=1e-9, progress=StopAt(step)))
    last = job("cut", checkpoint_seconds=1e-9)
    train(last)
    assert_bit_identical(weights(last), weights(whole))


def test_a_run_interrupted_before_its_first_checkpoint_starts_over(job):
    with pytest.raises(Interrupted):
        train(job("cut", progress=StopAt(4)))
    made = job("cut")
    train(made)
    assert [point["step"] for point in curve(made)] == list(range(1, 10))


def test_a_curve_line_that_a_crash_cut_short_is_dropped(job):
    with pytest.raises(Interrupted):
        train(job("cut", checkpoint_seconds=1e-9, progress=StopAt(5)))
    made = job("cut", checkpoint_seconds=1e-9)
    with (made.out / CURVE).open("a") as stream:
        stream.write('{"step": 6, "lo')
    train(made)
    assert [point["step"] for point in curve(made)] == list(range(1, 10))


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


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_step_that_is_not_finite_is_skipped_counted_and_leaves_no_trace_in_the_weights(
    job, random_examples, tiny_llama, gradient_only
):
    """At a constant rate, steps on rows 0, 5 (bad), 1 train what steps on 0, 1 train. √x has no slope at 0."""
    objective = Poisoned(random_examples(SIZES), frozenset({5}), gradient_only)
    spec = Optimization(learning_rate=0.01, schedule="constant", warmup_share=0)

    def run(name: str, plan: list[list[int]]) -> tuple[Job, dict]:
        made = job(name, plan=plan, objective=objective, spec=spec, scorer=Scorer(tiny_llama(), CPU))
        return made, train(made)

    poisoned, summary = run("poisoned", [[0], [5], [1]])
    clean, clean_summary = run("clean", [[0], [1]])
    assert (summary["skipped_steps"], summary["steps"]) == (1, 3)
    assert clean_summary["skipped_steps"] == 0
    assert_bit_identical(weights(poisoned), weights(clean))
    assert ["loss" in point for point in curve(poisoned)] == [True, False, True]


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_rows(job, random_examples):
    objective = Poisoned(random_examples(SIZES), frozenset({3, 4, 5}))
    with pytest.raises(TrainingDiverged, match=r"3 steps in a row, the last at step 4 .* rows \[5, 0\]"):
        train(job(objective=objective, plan=[[0], [3], [4, 1], [5, 0], [1]]))


def test_skips_that_are_not_in_a_row_do_not_stop_the_run(job, random_examples):
    objective = Poisoned(random_examples(SIZES), frozenset({5}))
    summary = train(job(objective=objective, plan=[[5], [5], [0], [5], [5], [1]]))
    assert summary["skipped_steps"] == 4


def test_gradients_are_clipped_and_their_norm_is_reported_before_clipping(job, tiny_llama, monkeypatch):
    """Under plain gradient descent a step is rate · gradient; clipped to norm 0.5 at a rate of 0.1 it is 0.05 long."""
    monkeypatch.setattr(loop, "make_optimizer", lambda model, spec: torch.optim.SGD(model.parameters(), lr=9.0))
    spec = Optimization(learning_rate=0.1, schedule="constant", warmup_share=0, max_grad_norm=0.5)
    made = job(spec=spec, plan=[[0, 1]], scorer=Scorer(tiny_llama(), CPU))
    before = {n: p.detach().clone() for n, p in trainable_state(made.scorer.model).items()}
    train(made)
    moved = torch.stack([(p - before[n]).norm() for n, p in trainable_state(made.scorer.model).items()]).norm()
    assert float(moved) == pytest.approx(0.05, rel=1e-3)
    assert curve(made)[0]["grad_norm"] > 0.5


def test_each_point_of_the_curve_has_its_rate_and_the_tokens_so_far(job):
    """Packed lengths 16, 14, 14 …: a pair counts its prompt once. Linear over 3 steps from 0.01: 3/3, 2/3, 1/3 of it."""
    spec = Optimization(learning_rate=0.01, schedule="linear", warmup_share=0)
    made = job(spec=spec, plan=[[0], [1], [2]])
    summary = train(made)
    assert [point["tokens"] for point in curve(made)] == [16, 30, 44]
    assert [point["learning_rate"] for point in curve(made)] == pytest.approx([0.01, 0.02 / 3, 0.01 / 3])
    assert summary["tokens"] == 44


def test_log_every_thins_the_curve_but_keeps_the_last_step(job):
    made = job()
    made = Job(**{**vars(made), "compute": Compute(log_every=4, checkpoint_seconds=1e6)})
    train(made)
    assert [point["step"] for point in curve(made)] == [4, 8, 9]


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


def test_weight_decay_is_for_matrices_only(tiny_llama):
    model = tiny_llama()
    matrices, vectors = make_optimizer(model, SPEC).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))
