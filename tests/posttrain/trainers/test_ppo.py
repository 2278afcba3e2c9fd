"""PPO in the one loop: a bandit with a known optimum, exact resume, the first ratio, the stop for a step that is too large."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from posttrain.actor_critic import ActorCritic, add_critic, add_value_head, without_dropout
from posttrain.packing import Example
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.progress import Quiet
from posttrain.reference import Reference
from posttrain.reward_sources import Rewards
from posttrain.rollouts import sample
from posttrain.scoring import Scorer
from posttrain.trainers.collect import Collector, Prompts
from posttrain.trainers.loop import Job, train
from posttrain.trainers.ppo import PolicyOptimization, plan_of
from posttrain.trainers.samples import SAMPLES, SampleLog
from schemas.ppo import PPO
from schemas.recipe import Compute
from schemas.training import Full

CPU = torch.device("cpu")
GOOD, BAD = 7, 9
OFTEN = {"checkpoint_seconds": 1e-9}  # a checkpoint after every step


def section(**changes) -> PPO:
    given = {
        "algorithm": "ppo", "reward": {"source": "function", "name": "posttrain.data.samples:sentiment"}, "iterations": 3,
        "rollouts": 8, "epochs": 2, "minibatches": 2, "max_new_tokens": 6, "temperature": 1.0, "learning_rate": 1e-2,
        "schedule": "constant", "warmup_share": 0.0,
    }  # fmt: skip
    return PPO.model_validate(given | changes)


class Words:
    """Stands for a tokenizer: its tokens are their numbers."""

    eos_token_id, pad_token_id = 0, 1

    @staticmethod
    def batch_decode(rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


def share_of_good(answered) -> torch.Tensor:
    """A reward that a policy of random tokens can raise: the share of tokens below 10."""
    return torch.tensor([float(np.mean(tokens < 10)) for tokens in answered.responses])


@pytest.fixture
def build(tiny_llama, tmp_path):
    """Builds a job from changes of the section: (job, objective, reference)."""

    def make(name: str = "run", reward=share_of_good, model=None, method=None, job=None, prompts=12, **changes):
        spec = section(**changes)
        base = tiny_llama() if model is None else model
        policy = wrap(base, method or Full(method="full"), 0, "alignment.peft")
        without_dropout(policy)
        reference = Reference(policy)
        if spec.advantage == "gae" and spec.value_model == "trunk":
            add_value_head(policy)
        scorer = ActorCritic(policy, CPU, temperature=spec.temperature).eval()
        scorer.entropy = spec.entropy_coefficient > 0
        rng = np.random.default_rng(3)
        tokens = [rng.integers(2, 97, 3 + i % 4).astype(np.int32) for i in range(prompts)]
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        collect = Collector(
            spec=spec, seed=0, scorer=scorer, reference=reference, sampler=sample, tokenizer=Words(),
            rewards=Rewards({"reward_test": (reward, 1.0)}), log=SampleLog(out / SAMPLES),
            prompts=Prompts([[{"role": "user", "content": "?"}]] * prompts, tokens),
        )  # fmt: skip
        objective = PolicyOptimization(spec, collect, torch.float32)
        return job_of(scorer, objective, spec, out, **(job or {})), objective, reference

    return make


def job_of(scorer, objective, spec, out, progress=None, **compute) -> Job:
    settings = Compute(device="cpu", **{"checkpoint_seconds": 1e9} | compute)
    return Job("align", scorer, objective, plan_of(spec, 0), spec, settings, out, progress or Quiet(), rounds=objective)


def bandit(answered) -> torch.Tensor:
    """Two arms: reward 1 for GOOD, 0 for BAD, and a fine for any other token."""
    return torch.tensor([{GOOD: 1.0, BAD: 0.0}.get(int(tokens[0]), -1.0) for tokens in answered.responses])


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_a_bandit_nears_the_known_optimum(build, advantage, tiny_llama):
    """π*(a) ∝ π_ref(a) exp(r(a) / β), so log π*(GOOD)/π*(BAD) = log π_ref(GOOD)/π_ref(BAD) + 1/β: with β = 1, one nat more."""
    samples = {} if advantage == "gae" else {"samples": 16}
    job, _, reference = build(
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
def test_the_reward_rises(build, advantage):
    changes = {} if advantage == "gae" else {"samples": 4, "rollouts": 32}
    job, objective, _ = build(advantage=advantage, **{"iterations": 12, "rollouts": 32, "kl": {"coefficient": 0.0}} | changes)
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
def test_a_killed_run_ends_in_the_same_weights_and_curve(build, changes, in_sampling, points):
    """It dies while the third iteration is rewarded, or in the middle of the second one's steps."""
    whole, _, _ = build("whole", **changes)
    train(whole)
    cut, objective, _ = build("cut", reward=dies_after(2 if in_sampling else 99, share_of_good), job=OFTEN, **changes)
    if not in_sampling:
        objective.loss = dies_after(6, objective.loss)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    resumed, _, _ = build("cut", job=OFTEN, **changes)
    torch.manual_seed(123)
    train(resumed)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
    assert points(resumed.out) == points(whole.out)


def test_the_reference_stays_what_it_was(build, tiny_llama):
    job, _, reference = build()
    example = Example(np.array([5, 6], np.int32), (np.array([7, 8, 9], np.int32),))
    before = Scorer(tiny_llama(), CPU)([example]).logprobs.detach()
    train(job)
    with reference.swapped():
        torch.testing.assert_close(Scorer(job.scorer.model, CPU)([example]).logprobs.detach(), before)
    assert not torch.allclose(Scorer(job.scorer.model, CPU)([example]).logprobs.detach(), before)


def test_scores_that_are_not_reproducible_stop_the_run(build):
    job, objective, _ = build()
    honest = objective.collect

    def lying(iteration: int):
        collected = honest(iteration)
        collected.scored.logprobs.add_(0.01)
        return collected

    objective.collect = lying
    with pytest.raises(RuntimeError, match="before the first step of an iteration"):
        train(job)


def test_an_iteration_stops_once_the_policy_has_moved_too_far(build, points):
    """A limit that every step exceeds leaves the first step of each iteration alone, and the second that finds out."""
    free, _, _ = build("free", learning_rate=0.05)
    train(free)
    bound, _, _ = build("bound", learning_rate=0.05, max_step_kl=1e-9)
    train(bound)
    assert points(free.out)[-1]["tokens"] > 1.5 * points(bound.out)[-1]["tokens"]
    assert points(bound.out)[-1]["step"] == points(free.out)[-1]["step"] == 12


def test_the_plan_sees_every_prompt_once_in_each_epoch():
    """3 iterations of 2 epochs in 2 minibatches of 8 prompts."""
    plan = plan_of(section(), 0)
    assert len(plan) == 12
    for i in range(0, 12, 2):
        assert sorted(plan[i] + plan[i + 1]) == list(range(8))
    assert plan[0] != plan[2]


def test_the_curve_has_a_point_for_each_iteration_with_what_a_person_watches(build, points):
    job, _, _ = build()
    train(job)
    found = points(job.out)
    assert [point["step"] for point in found] == [4, 8, 12]
    assert {
        "score", "kl", "kl_k3", "entropy", "response_tokens", "eos_share", "clip_fraction", "step_kl", "explained_variance",
        "policy_loss", "value_loss", "kl_coefficient", "reward_test", "loss", "grad_norm",
    } <= set(found[0])  # fmt: skip
    assert found[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < found[0]["entropy"] <= math.log(97)


def test_samples_of_every_iteration_are_kept(build):
    job, _, _ = build()
    train(job)
    rows = [json.loads(line) for line in (job.out / SAMPLES).read_text().splitlines()]
    assert [(row["iteration"], row["rank"]) for row in rows] == [(i, r) for i in range(3) for r in ("best", "middle", "worst")]
    assert rows[0]["reward"] >= rows[1]["reward"] >= rows[2]["reward"]


def test_the_entropy_bonus_keeps_the_policy_broad(build):
    job, narrow, _ = build("narrow", iterations=8, rollouts=32)
    train(job)
    job, broad, _ = build("broad", iterations=8, rollouts=32, entropy_coefficient=1.0)
    train(job)
    assert broad.measured["entropy"] > narrow.measured["entropy"] + 0.1


def test_a_critic_of_its_own_learns_without_moving_the_policy(build, tiny_llama, lora):
    """Rewards are constant and there is no pull to the reference: the policy has nothing to learn but noise, the critic 1."""
    job, objective, _ = build(
        reward=lambda answered: torch.ones(len(answered.responses)), value_model="adapter", rollouts=32, iterations=10,
        kl={"coefficient": 0.0}, value_coefficient=1.0, value_clip=10.0, method=lora(),
    )  # fmt: skip
    critic = wrap(tiny_llama(), lora(), 0, "alignment.value_model")
    add_value_head(critic)
    add_critic(job.scorer.model, critic)
    train(job)
    assert float(objective.experience.scored.values.mean()) == pytest.approx(1.0, abs=0.3)
