"""The options of PPO's family as the loop carries them out: losses by hand, and that a killed run ends in the same weights."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from posttrain.peft.wrap import trainable_state
from posttrain.training.loop import train

COMPARED = {"advantage": "rloo", "samples": 4, "rollouts": 16, "minibatches": 2}
GRPO = COMPARED | {"advantage": "grpo"}


def by_response(flat: torch.Tensor, lengths: list[int]) -> list[list[float]]:
    return [part.tolist() for part in flat.split(lengths)]


def expected_loss(spec, scored, advantages, new, ended, coefficient) -> float:
    """Of all examples in one step, response by response in plain Python, for the options that these tests set."""
    columns = [by_response(each, scored.lengths) for each in (new, scored.logprobs, scored.reference, advantages)]
    high = spec.clip if spec.clip_high is None else spec.clip_high
    sums, counted = [], []
    for logs, olds, references, each in zip(*columns, strict=True):
        ratios = [math.exp(a - b) for a, b in zip(logs, olds, strict=True)]
        if spec.ratio == "sequence":
            ratios = [math.prod(ratios) ** (1 / len(ratios))] * len(ratios)
        losses = []
        for log, rho, reference, a in zip(logs, ratios, references, each, strict=True):
            if spec.surrogate == "cispo":
                loss = -a * min(rho, 1 + high) * log
            else:
                loss = max(-a * rho, -a * min(max(rho, 1 - spec.clip), 1 + high))
                loss = min(loss, -a * spec.dual_clip) if spec.dual_clip and a < 0 else loss
            r = reference - log
            divergence = {"k1": -r, "k2": r * r / 2, "k3": math.exp(r) - 1 - r}[spec.kl_estimator]
            losses.append(loss + (coefficient * divergence if spec.kl_place == "loss" else 0.0))
        sums.append(losses)
    kept = [losses for losses, end in zip(sums, ended, strict=True) if end or not spec.mask_truncated]
    counted = {"token": sum(map(len, kept)), "sequence": len(kept), "constant": len(kept) * spec.max_new_tokens}[spec.aggregation]
    return sum(sum(losses) / (len(losses) if spec.aggregation == "sequence" else 1) for losses in kept) / counted


@pytest.mark.parametrize(
    "options",
    [
        {"clip_high": 0.5},
        {"dual_clip": 1.05},
        {"surrogate": "cispo"},
        {"surrogate": "cispo", "clip_high": 0.05},
        {"ratio": "sequence", "aggregation": "sequence", "clip": 0.01},
        {"aggregation": "sequence"},
        {"aggregation": "constant"},
        {"mask_truncated": True},
        {"mask_truncated": True, "aggregation": "sequence"},
        GRPO,
        GRPO | {"scale_rewards": "none", "kl": {"estimator": "k2"}},
        {"kl": {"place": "loss", "estimator": "k3"}},
    ],
    ids=str,
)
def test_the_loss_of_a_step_is_that_of_the_equations(ppo_job, options, tiny_llama):
    """With weights that have moved, so that ratios are not 1; of the 12 tokens one ends a response."""
    job, objective, _ = ppo_job(model=tiny_llama(vocabulary=12), **COMPARED | {"learning_rate": 0.02, "iterations": 2} | options)
    train(job)
    objective.enter(objective.steps)
    train_mode = job.scorer.train()
    for tensor in trainable_state(job.scorer.model).values():
        tensor.data += 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    rows = range(len(objective.examples))
    objective.fresh = False
    scores = train_mode([objective.examples[row] for row in rows])
    loss, _ = objective.loss(scores, rows)
    experience = objective.experience
    ended = [int(b[-1]) == 0 for e in experience.scored.examples for b in e.branches]
    assert True in ended
    assert False in ended
    expected = expected_loss(
        objective.spec, experience.scored, experience.advantages, scores.logprobs, ended, objective.coefficient
    )
    assert float(loss.detach()) / objective.units(rows) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_data_s_own_answers_add_their_mean_negative_log_likelihood(ppo_job):
    """In micro-batches of one example, as the loop would: the sum over them is weight · mean, in units of the step."""
    job, objective, _ = ppo_job(**COMPARED | {"sft_weight": 0.5, "kl": {"coefficient": 0.0}})
    prompts = job.objective.collect.prompts
    answers = [np.arange(2, 4 + i % 3, dtype=np.int32) for i in range(len(prompts.tokens))]
    object.__setattr__(prompts, "given", answers)
    objective.enter(0)
    scorer, rows = job.scorer.train(), range(len(objective.examples))
    losses = [objective.loss(scorer([objective.examples[row]]), [row]) for row in rows]
    total = sum(loss for loss, _ in losses) / objective.units(rows)
    policy = sum(float(sums["policy_loss"]) for _, sums in losses) / objective.units(rows)
    logs = scorer([type(e)(e.prompt, (e.branches[-1],)) for e in objective.examples]).logprobs
    assert float(total.detach()) - policy == pytest.approx(-0.5 * float(logs.detach().mean()), rel=1e-5)
    assert objective.examples[0].branches[-1] is objective.experience.given[0]


def test_without_a_divergence_no_reference_is_kept_or_scored(ppo_job, points):
    job, objective, reference = ppo_job(kl={"coefficient": 0.0})
    assert reference is None
    train(job)
    assert objective.experience.scored.reference is None
    assert not {"kl", "kl_k3", "kl_per_response", "kl_coefficient"} & set(points(job.out)[-1])


def test_the_reference_follows_the_policy(ppo_job):
    """Every iteration, half of the way: before the third iteration ½ (½ θ₀ + ½ θ₁) + ½ θ₂."""
    job, objective, reference = ppo_job(iterations=3, reference_refresh={"iterations": 1, "mix": 0.5})
    at, honest = [], objective.collect

    def collect(iteration):
        at.append({name: tensor.detach().clone() for name, tensor in trainable_state(job.scorer.model).items()})
        return honest(iteration)

    objective.collect = collect
    train(job)
    for name, tensor in reference.initial.items():
        torch.testing.assert_close(tensor, 0.25 * at[0][name] + 0.25 * at[1][name] + 0.5 * at[2][name])


def parity(answered) -> torch.Tensor:
    """0 or 1 by the first token, so that some prompts have responses with one reward."""
    return torch.tensor([float(int(tokens[0]) % 3 == 0) for tokens in answered.responses])


def test_dynamic_sampling_draws_other_prompts_for_those_that_teach_nothing(ppo_job, points):
    changes = {"reward": parity, "prompts": 64, "iterations": 1, "samples": 2, "rollouts": 32, "advantage": "grpo"}
    plain, one, _ = ppo_job("plain", **changes)
    train(plain)
    job, objective, _ = ppo_job("dynamic", **changes, dynamic_sampling=8)
    train(job)
    flat, found = points(plain.out)[-1], points(job.out)[-1]
    assert flat["groups_without_variance"] > 0.2
    assert 0 < found["groups_without_variance"] < 1
    kept, taken = objective.experience.scored.examples, one.experience.scored.examples
    assert len(kept) == len(taken) == 16
    assert found["prompts_drawn"] > 16
    assert (objective.experience.advantages != 0).all()
    scores = objective.experience.advantages.split(objective.experience.scored.lengths)
    assert all(float(each[0]) != 0 for each in scores)


WAYS = {
    "warm-up": {"critic": {"warmup_iterations": 2}},
    "critic of its own": {"value_model": "adapter"},
    "reference that follows": {"reference_refresh": {"iterations": 1, "mix": 0.5}},
    "dynamic sampling": {**GRPO, "dynamic_sampling": 2, "prompts": 32, "reward": parity},
    "no reference": {"kl": {"coefficient": 0.0}},
    "gspo": {**GRPO, "ratio": "sequence", "aggregation": "sequence", "mask_truncated": True},
    "held-out": {"held_out": True, "keep": "best", "validations": 3},
    "watched": {**GRPO, "reward": lambda answered: torch.ones(len(answered.responses)), "stop": {"kl_per_response": 1e9}},
}


def dies_after(calls: int, function):
    counter = itertools.count(1)

    def call(*given):
        if next(counter) > calls:
            raise KeyboardInterrupt
        return function(*given)

    return call


@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_anywhere_ends_in_the_same_weights_and_curve(ppo_job, points, way, step):
    """Iterations have 4 steps: it dies in the first, in the second and in the third."""
    whole, of_whole, _ = ppo_job("whole", **WAYS[way])
    train(whole)
    cut, objective, _ = ppo_job("cut", job={"checkpoint_seconds": 1e-9}, **WAYS[way])
    objective.enter = dies_after(step, objective.enter)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    resumed, of_resumed, _ = ppo_job("cut", job={"checkpoint_seconds": 1e-9}, **WAYS[way])
    torch.manual_seed(123)
    train(resumed)
    one, other = (trainable_state(job.scorer.model) for job in (resumed, whole))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert points(resumed.out) == points(whole.out)
    assert of_resumed.watch.state() == of_whole.watch.state()


def test_training_ends_where_the_policy_is_too_far_from_the_reference(ppo_job, points):
    """The second iteration's responses are, whatever its first step does: a limit below what one iteration moves."""
    job, objective, _ = ppo_job(learning_rate=0.05, stop={"kl_per_response": 1e-3})
    train(job)
    found = points(job.out)
    assert [point["step"] for point in found] == [4, 5]
    assert found[-1]["kl_per_response"] > 1e-3
    assert "nats per response from the reference, above 0.001" in objective.over


@pytest.mark.parametrize("patience", [1, 2])
def test_training_ends_where_a_monitor_falls(ppo_job, points, patience):
    """It says 3, 2, 1, 0 …: with a fall of more than 1.5 allowed the third value is the first below."""
    job, objective, _ = ppo_job(
        iterations=6, monitor={"source": "function", "name": "m:f"}, stop={"monitor_falls": 1.5, "patience": patience}
    )
    honest, values = objective.collect, itertools.count(3, -1)

    def collect(iteration):
        collected = honest(iteration)
        collected.numbers["monitor_f"] = float(next(values))
        return collected

    objective.collect = collect
    train(job)
    assert len(points(job.out)) == 2 + patience
    assert objective.over == f"monitor_f fell from 3 to {2 - patience}"


def test_the_best_weights_on_held_out_prompts_are_the_result(ppo_job, points):
    """A rate that ruins the policy after the first iteration: the weights of the highest held-out reward come back."""
    job, _, _ = ppo_job(held_out=True, keep="best", validations=6, iterations=6, learning_rate=0.03)
    metrics = train(job)
    curve = {point["step"]: point["held_out_reward"] for point in points(job.out) if "held_out_reward" in point}
    assert list(curve) == [0, 4, 8, 12, 16, 20, 24]
    best = max(curve.values())
    assert metrics["held_out_reward"] == metrics["best_held_out_reward"] == best
    assert curve[metrics["best_step"]] == best
    assert job.held_out()["held_out_reward"] == pytest.approx(best)


def test_training_stops_when_the_held_out_reward_no_longer_rises(ppo_job, points):
    job, _, _ = ppo_job(
        held_out=True, early_stop={"patience": 2}, validations=3, reward=lambda answered: torch.zeros(len(answered.responses))
    )
    train(job)
    assert [point["step"] for point in points(job.out)] == [0, 4, 8]


def test_a_person_is_told_once_that_no_prompt_teaches_anything(ppo_job):
    told = []
    job, objective, _ = ppo_job(
        **GRPO | {"iterations": 7, "epochs": 1}, reward=lambda answered: torch.ones(len(answered.responses))
    )
    objective.watch._tell = lambda what, sentence: told.append(sentence)
    train(job)
    assert [sentence for sentence in told if "different rewards for 5 iterations" in sentence] == told
    assert objective.measured["groups_without_variance"] == 1
    assert objective.measured["iterations_without_variance"] == 7


def test_every_iteration_of_compared_responses_says_how_many_prompts_teach_nothing(ppo_job):
    job, _, _ = ppo_job(**GRPO)
    train(job)
    assert all("groups_without_variance" in json.loads(line) for line in (job.out / "curve.jsonl").read_text().splitlines())
