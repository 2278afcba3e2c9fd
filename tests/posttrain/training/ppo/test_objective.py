"""PPO in the one loop: a bandit with a known optimum, exact resume, the first ratio, the stop for a step that is too large."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.data.packing import Example
from posttrain.peft.wrap import trainable_state
from posttrain.report.read import lines
from posttrain.rewards.sources import Answered, Rewarded, Said
from posttrain.runtime.progress import Quiet, reporting
from posttrain.scoring.scorer import Scorer
from posttrain.training.loop import Job, train
from posttrain.training.ppo.objective import plan_of
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog

CPU = torch.device("cpu")
GOOD, BAD = 7, 9
OFTEN = {"checkpoint_seconds": 1e-9}  # a checkpoint after every step


def bandit(answered) -> torch.Tensor:
    """Two arms: reward 1 for GOOD, 0 for BAD, and a fine for any other token."""
    return torch.tensor([{GOOD: 1.0, BAD: 0.0}.get(int(tokens[0]), -1.0) for tokens in answered.responses])


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_a_bandit_nears_the_known_optimum(ppo_job, advantage, tiny_llama):
    """π*(a) ∝ π_ref(a) exp(r(a) / β), so log π*(GOOD)/π*(BAD) = log π_ref(GOOD)/π_ref(BAD) + 1/β: with β = 1, one nat more."""
    samples = {} if advantage == "gae" else {"samples": 16}
    job, _, reference = ppo_job(
        model=tiny_llama(vocabulary=16), reward=bandit, advantage=advantage, max_new_tokens=1, rollouts=128, iterations=60,
        epochs=2, minibatches=2, learning_rate=2e-3, schedule="linear", kl={"coefficient": 1.0}, prompts=1, **samples,
    )  # fmt: skip
    prompt = Example(np.array([5, 3, 4], np.int32), (np.array([GOOD], np.int32), np.array([BAD], np.int32)))
    job.objective.collect.prompts.tokens[0] = prompt.prompt
    plain = Scorer(job.scorer.model, CPU)
    before = plain([prompt]).logprobs.detach()
    train(job)
    after = plain([prompt]).logprobs.detach()
    gained = float((after[0] - after[1]) - (before[0] - before[1]))
    if advantage == "grpo":  # rewards are divided by their spread, so that β counts in units of it
        assert gained > 0.5
    else:
        assert gained == pytest.approx(1.0, abs=0.35)
    with reference.swapped():
        torch.testing.assert_close(plain([prompt]).logprobs.detach(), before)


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_the_reward_rises(ppo_job, advantage):
    changes = {} if advantage == "gae" else {"samples": 4, "rollouts": 32}
    job, objective, _ = ppo_job(advantage=advantage, **{"iterations": 12, "rollouts": 32, "kl": {"coefficient": 0.0}} | changes)
    first = objective.collect(0).numbers["score"]
    train(job)
    assert objective.measured["score"] > first + 0.2


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainable_state(job.scorer.model).items()}


def dies_after(calls: int, function):
    """The function, which ends the run after so many calls."""
    counter = itertools.count(1)

    def call(*given):
        if next(counter) > calls:
            raise KeyboardInterrupt
        return function(*given)

    return call


@pytest.mark.parametrize("changes", [{}, {"kl": {"coefficient": 0.1, "adaptive": True, "target": 0.01, "horizon": 100}}])
@pytest.mark.parametrize("in_sampling", [True, False])
def test_a_killed_run_ends_in_the_same_weights_and_curve(ppo_job, share_of_good, changes, in_sampling, points):
    """It dies while the third iteration is rewarded, or in the middle of the second one's steps."""
    whole, _, _ = ppo_job("whole", **changes)
    train(whole)
    cut, objective, _ = ppo_job("cut", reward=dies_after(2 if in_sampling else 99, share_of_good), job=OFTEN, **changes)
    if not in_sampling:
        objective.loss = dies_after(6, objective.loss)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    resumed, _, _ = ppo_job("cut", job=OFTEN, **changes)
    torch.manual_seed(123)
    train(resumed)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
    assert points(resumed.out) == points(whole.out)


def test_the_reference_stays_what_it_was(ppo_job, tiny_llama):
    job, _, reference = ppo_job()
    example = Example(np.array([5, 6], np.int32), (np.array([7, 8, 9], np.int32),))
    before = Scorer(tiny_llama(), CPU)([example]).logprobs.detach()
    train(job)
    with reference.swapped():
        torch.testing.assert_close(Scorer(job.scorer.model, CPU)([example]).logprobs.detach(), before)
    assert not torch.allclose(Scorer(job.scorer.model, CPU)([example]).logprobs.detach(), before)


def test_scores_that_are_not_reproducible_stop_the_run(ppo_job):
    job, objective, _ = ppo_job()
    honest = objective.collect

    def lying(iteration: int):
        collected = honest(iteration)
        collected.scored.logprobs.add_(0.01)
        return collected

    objective.collect = lying
    with pytest.raises(RuntimeError, match="before the first step of an iteration"):
        train(job)


def test_an_iteration_stops_once_the_policy_has_moved_too_far(ppo_job, points):
    """A limit that every step exceeds leaves the first step of each iteration alone, and the second that finds out."""
    free, _, _ = ppo_job("free", learning_rate=0.05)
    train(free)
    bound, _, _ = ppo_job("bound", learning_rate=0.05, max_step_kl=1e-9)
    train(bound)
    assert points(free.out)[-1]["tokens"] > 1.5 * points(bound.out)[-1]["tokens"]
    assert points(bound.out)[-1]["step"] == points(free.out)[-1]["step"] == 12


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_killed_after_the_policy_has_moved_too_far_ends_in_the_same_weights(ppo_job, points, step):
    """Before the second step finds it out, and among the steps that are left out."""
    changes = {"learning_rate": 0.05, "max_step_kl": 1e-9}
    whole, _, _ = ppo_job("whole", **changes)
    train(whole)
    cut, objective, _ = ppo_job("cut", job=OFTEN, **changes)
    objective.enter = dies_after(step, objective.enter)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    resumed, _, _ = ppo_job("cut", job=OFTEN, **changes)
    train(resumed)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
    assert [point["tokens"] for point in points(resumed.out)] == [point["tokens"] for point in points(whole.out)]


@pytest.mark.parametrize(
    "changes",
    [
        {"rollouts": 1, "minibatches": 1, "prompts": 1},
        {"reward": lambda answered: torch.ones(len(answered.responses)), "kl": {"coefficient": 0.0}, "lam": 1.0,
         "value_coefficient": 0.0},
    ],
    ids=["one response", "equal returns"],
)  # fmt: skip
def test_numbers_are_finite_where_nothing_varies(ppo_job, points, changes):
    """The store refuses others, when all training is done."""
    job, _, _ = ppo_job(**changes)
    metrics = train(job)
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(math.isfinite(value) for point in points(job.out) for value in point.values())


def test_a_line_separator_in_a_text_does_not_break_the_log(tmp_path):
    """U+2028 and its like end a line for `str.splitlines`, and not in JSON."""
    log = SampleLog(tmp_path / ROLLOUTS)
    asked = [[{"role": "user", "content": "a\u2028b\x85c\u2029d"}]]
    answered = Answered(asked, [np.array([1], np.int32)], [np.array([2], np.int32)], ["good"])
    log.add(0, answered, Rewarded(torch.ones(1)))
    log.add(1, answered, Rewarded(torch.ones(1)))
    read = lines({"align": tmp_path}, "align", ROLLOUTS)
    assert [(row["iteration"], row["prompt"]) for row in read] == [(i, "a\u2028b\x85c\u2029d") for i in (0, 0, 0, 1, 1, 1)]


def test_the_log_leaves_out_what_has_no_reward_and_tells_what_rewards_were_read_from(tmp_path):
    log, asked = SampleLog(tmp_path / ROLLOUTS), [[{"role": "user", "content": "?"}]] * 3
    answered = Answered(asked, [np.array([1], np.int32)] * 3, [np.array([2], np.int32)] * 3, ["a", "b", "c"])
    rewards = torch.tensor([1.0, float("nan"), 0.0])
    log.add(0, answered, Rewarded(rewards, {"reward_number": Said(rewards, ["4", None, "5"])}))
    read = [(row["response"], row["reward"], row["extracted"]) for row in lines({"align": tmp_path}, "align", ROLLOUTS)]
    four, five = {"reward_number": "4"}, {"reward_number": "5"}
    assert read == [("a", 1.0, four), ("c", 0.0, five), ("c", 0.0, five)]


def test_the_plan_sees_every_prompt_once_in_each_epoch(ppo_section):
    """3 iterations of 2 epochs in 2 minibatches of 8 prompts."""
    plan = plan_of(ppo_section(), 0)
    assert len(plan) == 12
    for i in range(0, 12, 2):
        assert sorted(plan[i] + plan[i + 1]) == list(range(8))
    assert plan[0] != plan[2]


def test_the_curve_has_a_point_for_each_iteration_with_what_a_person_watches(ppo_job, points):
    job, _, _ = ppo_job()
    train(job)
    found = points(job.out)
    assert [point["step"] for point in found] == [4, 8, 12]
    assert {
        "score", "kl", "kl_k3", "entropy", "response_tokens", "eos_share", "clip_fraction", "step_kl", "explained_variance",
        "policy_loss", "value_loss", "kl_coefficient", "reward_test", "loss", "grad_norm",
    } <= set(found[0])  # fmt: skip
    assert found[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < found[0]["entropy"] <= math.log(97)


class Pieces(Quiet):
    """Keeps which pieces of work began and ended, and the numbers that came with a step."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, int | str]] = []
        self.with_score: list[int] = []

    def start(self, what, total):
        self.pieces.append((what, total))

    def end(self, what):
        self.pieces.append((what, "ends"))

    def advance(self, done, metrics):
        if "score" in metrics:
            self.with_score.append(done)


def test_each_iteration_reports_its_responses_scores_and_first_numbers(ppo_job):
    """3 iterations of 8 responses, which policy and reference score, and of 4 steps."""
    heard = Pieces()
    with reporting(heard):
        train(replace(ppo_job()[0], progress=heard))
    iteration = [("responses", 8), ("responses", "ends"), ("scores", 16), ("scores", "ends")]
    assert heard.pieces == [("align training", 12), *iteration * 3, ("align training", "ends")]
    assert heard.with_score == [1, 4, 8, 12]


def test_samples_of_every_iteration_are_kept(ppo_job):
    job, _, _ = ppo_job()
    train(job)
    rows = [json.loads(line) for line in (job.out / ROLLOUTS).read_text().splitlines()]
    assert [(row["iteration"], row["rank"]) for row in rows] == [(i, r) for i in range(3) for r in ("best", "middle", "worst")]
    assert rows[0]["reward"] >= rows[1]["reward"] >= rows[2]["reward"]


def test_the_entropy_bonus_keeps_the_policy_broad(ppo_job):
    job, narrow, _ = ppo_job("narrow", iterations=8, rollouts=32)
    train(job)
    job, broad, _ = ppo_job("broad", iterations=8, rollouts=32, entropy_coefficient=1.0)
    train(job)
    assert broad.measured["entropy"] > narrow.measured["entropy"] + 0.1


def test_a_critic_of_its_own_learns_without_moving_the_policy(ppo_job, tiny_llama, lora):
    """Rewards are constant and there is no pull to the reference: the policy has nothing to learn but noise, the critic 1."""
    job, objective, _ = ppo_job(
        reward=lambda answered: torch.ones(len(answered.responses)), value_model="adapter", rollouts=32, iterations=10,
        kl={"coefficient": 0.0}, value_coefficient=1.0, value_clip=10.0, method=lora(),
    )  # fmt: skip
    train(job)
    assert float(objective.experience.scored.values.mean()) == pytest.approx(1.0, abs=0.3)
