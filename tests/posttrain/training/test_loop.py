"""The loop: accumulation, learning, exact resume, and the points of its curve."""

from __future__ import annotations

import signal

import pytest
import torch

import posttrain.training.loop as loop
from posttrain.runtime.interruption import Terminated, owned_signals
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import Quiet
from posttrain.scoring.scorer import Scorer
from posttrain.training.batches import by_rows
from posttrain.training.curve import CURVE
from posttrain.training.loop import Job, train

CPU = torch.device("cpu")


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in job.scorer.model.state_dict().items()}


def assert_bit_identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("kind", ["lm", "dpo"])
def test_micro_batches_add_up_to_the_gradient_of_one_big_batch(job, tiny_llama, monkeypatch, kind, points):
    """Same loss, gradient norm and metrics at every step; examples differ in length, so a mean of means would be off."""
    plan = by_rows(6, 6, 4, seed=0)

    def run(name: str, budget: int) -> Job:
        monkeypatch.setattr(loop, "training_tokens", lambda model, device, dtype: budget)
        made = job(name, kind=kind, plan=plan, scorer=Scorer(tiny_llama().train(), CPU))
        train(made)
        return made

    whole, parts = run("whole", 10**6), run("parts", 20)
    assert len(points(whole.out)) == 4
    for one, many in zip(points(whole.out), points(parts.out), strict=True):
        if one["step"] == 1:  # margins are 0 before the first step: their sign, and so the accuracy, is rounding
            one.pop("accuracy", None), many.pop("accuracy", None)
        assert many == pytest.approx(one, rel=1e-4, abs=1e-6)
    for one, many in zip(weights(whole).values(), weights(parts).values(), strict=True):
        torch.testing.assert_close(many, one, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("kind", "start"), [("lm", 4.57), ("dpo", 0.6931)])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_falls(job, method, kind, start, points):
    """A random model starts near ln 97 = 4.57 per token; DPO starts at ln 2. LoRA on two layers moves less."""
    made = job(method=method, kind=kind, plan=by_rows(6, 6, 25, seed=0))
    summary = train(made)
    points = points(made.out)
    assert points[0]["loss"] == pytest.approx(start, rel=0.03)
    assert summary["loss"] == points[-1]["loss"] < 0.99 * points[0]["loss"]
    assert summary["steps"] == len(points) == 25


@pytest.mark.parametrize("kind", ["lm", "dpo"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_ends_in_the_weights_and_curve_of_a_whole_one(job, stop_at, objective, method, kind, points):
    """Checkpoints after every step; the run dies while it reports step 5, whose curve point is written and checkpoint is not."""
    validated = {"validation": objective(kind)}
    whole = job("whole", method, kind, **validated)
    summary = train(whole)

    first = job("cut", method, kind, checkpoint_seconds=1e-9, progress=stop_at(5), **validated)
    with pytest.raises(KeyboardInterrupt):
        train(first)
    assert [path.name for path in (first.out / CHECKPOINT).iterdir()] == ["000000004"]
    torch.manual_seed(99)  # another process has another random state
    second = job("cut", method, kind, checkpoint_seconds=1e-9, **validated)
    torch.manual_seed(98)
    resumed = train(second)

    assert_bit_identical(weights(second), weights(whole))
    assert points(second.out) == points(whole.out)
    assert [point["step"] for point in points(second.out)] == list(range(10))
    assert resumed["validation_loss_start"] == points(whole.out)[0]["validation_loss"] != resumed["validation_loss"]
    assert {**resumed, "tokens_per_second": 0} == {**summary, "tokens_per_second": 0}


def test_a_run_that_is_interrupted_twice_still_ends_the_same(job, stop_at):
    whole = job("whole")
    train(whole)
    for step in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            train(job("cut", checkpoint_seconds=1e-9, progress=stop_at(step)))
    last = job("cut", checkpoint_seconds=1e-9)
    train(last)
    assert_bit_identical(weights(last), weights(whole))


def test_a_run_interrupted_before_its_first_checkpoint_starts_over(job, stop_at, points):
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", progress=stop_at(4)))
    made = job("cut")
    train(made)
    assert [point["step"] for point in points(made.out)] == list(range(1, 10))


def test_a_curve_line_that_a_crash_cut_short_is_dropped(job, stop_at, points):
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", checkpoint_seconds=1e-9, progress=stop_at(5)))
    made = job("cut", checkpoint_seconds=1e-9)
    with (made.out / CURVE).open("a") as stream:
        stream.write('{"step": 6, "lo')
    train(made)
    assert [point["step"] for point in points(made.out)] == list(range(1, 10))


def test_each_point_of_the_curve_has_its_rate_and_the_tokens_so_far(job, points):
    """Packed lengths 16, 14, 14 …: a pair counts its prompt once. Linear over 3 steps from 0.01: 3/3, 2/3, 1/3 of it."""
    spec = {"learning_rate": 0.01, "schedule": "linear", "warmup_share": 0}
    made = job(spec=spec, plan=[[0], [1], [2]])
    summary = train(made)
    assert [point["tokens"] for point in points(made.out)] == [16, 30, 44]
    assert [point["learning_rate"] for point in points(made.out)] == pytest.approx([0.01, 0.02 / 3, 0.01 / 3])
    assert summary["tokens"] == 44


class Heard(Quiet):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def start(self, what, total):
        self.heard.append((what, total))

    def advance(self, done, metrics):
        self.heard.append((done, "loss" in metrics))

    def end(self, what):
        self.heard.append((what, "ends"))


def test_log_every_thins_the_curve_but_keeps_the_first_and_the_last_step(job, points):
    made = job(log_every=4)
    train(made)
    assert [point["step"] for point in points(made.out)] == [1, 4, 8, 9]


def test_every_step_is_reported_and_numbers_come_after_the_first_and_with_the_curve(job):
    made = job(log_every=4, progress=Heard())
    train(made)
    steps = [(step, step in (1, 4, 8, 9)) for step in range(1, 10)]
    assert made.progress.heard == [("run training", 9), *steps, ("run training", "ends")]


def test_a_resumed_run_says_where_it_begins_and_gives_numbers_after_its_first_step(job, stop_at, points):
    """The curve stays that of an uninterrupted run."""
    with pytest.raises(KeyboardInterrupt):
        train(job("cut", checkpoint_seconds=1e-9, log_every=4, progress=stop_at(6)))
    made = job("cut", log_every=4, progress=Heard())
    train(made)
    assert made.progress.heard[1:6] == [(5, False), (6, True), (7, False), (8, True), (9, True)]
    assert [point["step"] for point in points(made.out)] == [1, 4, 8, 9]


class Signals(Quiet):
    """Somebody sends a signal when step 5 is reported, once or twice."""

    def __init__(self, number: signal.Signals, times: int = 1) -> None:
        self.number, self.times = number, times

    def advance(self, done, metrics):
        if done == 5:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_with_a_checkpoint_and_the_run_resumes_to_the_bit(job, number):
    """No checkpoint is due for days. The signal comes after step 5 was done: the loop looks for it once in every step."""
    whole = job("whole")
    train(whole)
    with pytest.raises(KeyboardInterrupt) as stopped, owned_signals():
        train(job("cut", progress=Signals(number)))
    assert isinstance(stopped.value, Terminated) == (number == signal.SIGTERM)
    second = job("cut")
    assert [path.name for path in (second.out / CHECKPOINT).iterdir()] == ["000000006"]
    train(second)
    assert_bit_identical(weights(second), weights(whole))


def test_a_signal_in_the_last_step_loses_nothing(job):
    plan = [[0], [1], [2], [3], [4], [5]]
    whole = job("whole", plan=plan)
    train(whole)
    with pytest.raises(KeyboardInterrupt), owned_signals():
        train(job("cut", plan=plan, progress=Signals(signal.SIGINT)))
    second = job("cut", plan=plan)
    assert [path.name for path in (second.out / CHECKPOINT).iterdir()] == ["000000006"]
    train(second)
    assert_bit_identical(weights(second), weights(whole))


def test_the_second_signal_stops_at_once(job):
    with pytest.raises(KeyboardInterrupt), owned_signals():
        train(job("cut", progress=Signals(signal.SIGINT, times=2)))
    assert not (job("cut").out / CHECKPOINT).exists()
