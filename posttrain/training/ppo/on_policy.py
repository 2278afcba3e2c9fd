"""Reward models on the policy's own answers before training: their scale there, and whether they agree with what watches.

A reward model that ranks nine of ten held-out pairs may rank the policy's own answers, which are closer to each other, far worse.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.rewards.sources import is_learned, named
from posttrain.runtime.progress import current
from posttrain.scoring.scorer import inner_model
from posttrain.statistics.calibration import correlation
from posttrain.statistics.intervals import ratio_interval, share_interval
from posttrain.training.ppo.actor_critic import CRITIC, VALUE_HEAD
from posttrain.training.ppo.rollout import Collector, Prompts
from schemas.errors import Refusal
from schemas.ppo import PPO

FILE = "on_policy.json"
PROMPTS, ANSWERS = 64, 4
SEED = 2  # beside the run's: apart from those of the iterations and of held-out answers
Found = dict[str, Any]


@dataclass(frozen=True)
class OnPolicy:
    """What was measured."""

    divisors: Mapping[str, float]
    """Standard deviation of the rewards of each source that is standardised."""
    document: Found
    """For the report."""

    def numbers(self) -> dict[str, float]:
        """For the stage's metrics."""
        found: dict[str, float] = {}
        for each in self.document["agreement"]:
            name = f"{each['reward']}_{each['monitor']}"
            found |= {f"on_policy_correlation_{name}": each["correlation"], f"on_policy_best_of_n_{name}": each["best"]["value"]}
        return found


def measure(collect: Collector, prompts: Prompts, out: Path) -> OnPolicy | None:
    """Answer prompts several times with the policy as it is, and write what its rewards are like; None without reward models.

    Raises:
        Refusal: when a reward model that is to be standardised gives every answer the same reward.
    """
    spec = collect.spec
    if not any(is_learned(source) for source in spec.sources):
        return None
    count = min(PROMPTS, len(prompts.tokens))
    batch = collect.answered(prompts, range(count), collect.seed + SEED, ANSWERS, "answers before training")
    said = {name: each.rewards for name, each in batch.rewarded.said.items()}
    divisors = _divisors(spec, said)
    rewards = {name: each for name, each in said.items() if name.startswith("reward_")}
    watching = {name: each for name, each in said.items() if name.startswith("monitor_")}
    pairs = itertools.product(rewards.items(), watching.items())
    document: Found = {
        "prompts": count,
        "answers": ANSWERS,
        "rewards": [{"name": name, **_moments(each)} for name, each in said.items()],
        "agreement": [
            {"reward": name, "monitor": other, **agreement(each, watch, ANSWERS)} for (name, each), (other, watch) in pairs
        ],
    }
    (out / FILE).write_text(json.dumps(document, indent=1))
    for each in document["agreement"]:
        current().note(f"align: {in_words(each)}")
    return OnPolicy(divisors, document)


def _moments(rewards: Tensor) -> dict[str, float]:
    kept = rewards[~rewards.isnan()].double()
    return {"mean": float(kept.mean()), "std": float(kept.std(unbiased=False))}


def _divisors(spec: PPO, said: Mapping[str, Tensor]) -> dict[str, float]:
    fields = {"reward": spec.reward, "monitor": spec.monitor}
    wanted = [named(field, each) for field, listed in fields.items() for each in listed if getattr(each, "standardise", False)]
    divisors = {name: _moments(said[name])["std"] for name in wanted}
    for name, divisor in divisors.items():
        if not divisor > 0:
            raise Refusal(
                where="alignment.reward",
                found=f"{name}, which gives every one of {len(said[name])} answers of the policy the same reward",
                allowed="a reward model that tells answers from each other",
                remedy="train it longer, or at another learning rate",
            )
    return divisors


def agreement(rewards: Tensor, watching: Tensor, answers: int) -> Found:
    """How well rewards [R] order answers as another measure [R] does, `answers` in a row to each prompt.

    Returns:
        `correlation` over all answers (Pearson); `ordered`, the share of pairs of one prompt's answers that both order alike, but
        for those that `watching` finds equal; and of the other measure its `mean`, that of the `best` answer of each prompt by
        reward, and what was `possible`: the mean of each prompt's highest. All but the first have intervals over prompts.
    """
    known = ~(rewards.isnan() | watching.isnan()).view(-1, answers).any(1)
    ours, theirs = (each.double().view(-1, answers)[known] for each in (rewards, watching))
    if not len(ours):
        return {"correlation": 0.0, "ordered": None, "mean": None, "best": {"value": 0.0}, "possible": None}
    best = theirs.gather(1, ours.argmax(1, keepdim=True))[:, 0]
    alike, groups = _pairs(ours, theirs)
    measures = {"mean": theirs.mean(1), "best": best, "possible": theirs.amax(1)}
    return {
        "correlation": correlation(ours.flatten().numpy(), theirs.flatten().numpy()),
        "ordered": _told(share_interval(alike, groups=groups)) if alike else None,
        **{name: _told(ratio_interval(each.tolist())) for name, each in measures.items()},
    }


def _pairs(ours: Tensor, theirs: Tensor) -> tuple[list[float], list[int]]:
    """Of each pair of a prompt's answers that the second orders, whether the first does so alike (ties half), and the prompt."""
    alike, groups = [], []
    for prompt, (left, right) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
        for i, j in itertools.combinations(range(len(left)), 2):
            if right[i] != right[j]:
                product = (left[i] - left[j]) * (right[i] - right[j])
                alike.append(1.0 if product > 0 else 0.5 if product == 0 else 0.0)
                groups.append(prompt)
    return alike, groups


def _told(estimate: Any) -> Found:
    return {"value": estimate.value, "interval": estimate.interval}


def in_words(found: Found) -> str:
    """The agreement of one pair in a sentence."""
    best, mean = found["best"]["value"], (found["mean"] or {"value": 0.0})["value"]
    return (
        f"on the policy's own answers {found['reward']} correlates {found['correlation']:.2f} with {found['monitor']}; "
        f"the best of {ANSWERS} by it has {best:.3g} there, the mean is {mean:.3g}"
    )


@torch.no_grad()
def scale_critic(policy: nn.Module, divisor: float) -> None:
    """Divide what a critic says that started from a reward model, as that model's rewards are."""
    head = getattr(inner_model(getattr(inner_model(policy), CRITIC)), VALUE_HEAD)
    head.weight.div_(divisor)
    head.bias.div_(divisor)
