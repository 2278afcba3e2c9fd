"""Answered prompts and their rewards, and how prompts are drawn until their responses differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.data.packing import Example
from posttrain.losses import ppo
from posttrain.rewards.sources import Answered, Rewarded, Said
from schemas.ppo import PPO


@dataclass(frozen=True)
class Batch:
    """P prompts with their responses, R in all, and what these are worth."""

    drawn: list[int]  # [P] which prompts these are
    examples: list[Example]
    answered: Answered
    rewarded: Rewarded
    scores: Tensor  # [R] what is maximised
    ended: Tensor  # [R] whether a response ended before it was cut
    sampled: Sequence[NDArray[np.float32]] = ()  # [R] what a server that sampled gave each token; NaN where it said nothing

    def varies(self, samples: int) -> Tensor:
        """[P]: whether the responses of a prompt have different scores."""
        applies = ~self.scores.isnan()
        return ppo.varies(self.scores.nan_to_num(nan=0.0), samples, applies)

    def of(self, prompts: Sequence[int], samples: int) -> Batch:
        """Some of the prompts, in this order."""
        rows = [prompt * samples + k for prompt in prompts for k in range(samples)]
        lists = {name: [each[row] for row in rows] for name, each in vars(self.answered).items() if len(each)}
        said = {name: _some(each, rows) for name, each in self.rewarded.said.items()}
        rewarded = Rewarded(self.rewarded.total[rows], said)
        drawn, examples = [self.drawn[prompt] for prompt in prompts], [self.examples[prompt] for prompt in prompts]
        sampled = [self.sampled[row] for row in rows] if self.sampled else ()
        return Batch(drawn, examples, Answered(**lists), rewarded, self.scores[rows], self.ended[rows], sampled)


def _some(said: Said, rows: Sequence[int]) -> Said:
    return Said(said.rewards[rows], [said.extracted[row] for row in rows] if said.extracted else (), said.failed)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    answered = Answered(
        **{name: [each for b in batches for each in getattr(b.answered, name)] for name in vars(batches[0].answered)}
    )
    said = {name: _together([b.rewarded.said[name] for b in batches]) for name in batches[0].rewarded.said}
    rewarded = Rewarded(torch.cat([b.rewarded.total for b in batches]), said)
    scores, ended = (torch.cat([getattr(b, name) for b in batches]) for name in ("scores", "ended"))
    drawn, examples = [index for b in batches for index in b.drawn], [example for b in batches for example in b.examples]
    return Batch(drawn, examples, answered, rewarded, scores, ended, [each for b in batches for each in b.sampled])


def _together(parts: Sequence[Said]) -> Said:
    extracted = [each for part in parts for each in (part.extracted or [None] * len(part.rewards))]
    rewards = torch.cat([part.rewards for part in parts])
    return Said(rewards, extracted if any(extracted) else (), sum(part.failed for part in parts))


def drawn_to_vary(spec: PPO, draw: Callable[[int, int], Batch]) -> tuple[Batch, dict[str, float]]:
    """An iteration's batch, and how much the responses of a prompt differed.

    With `dynamic_sampling` prompts whose responses all have one score give way to others (DAPO, arXiv 2503.14476, equation 11),
    as long as attempts are left; those of the last attempts fill what is missing then.

    Args:
        spec: the section.
        draw: of (attempt, prompts), both numbers: the prompts of an attempt, answered and rewarded.
    """
    size, attempts = spec.rollouts // spec.samples, spec.dynamic_sampling or 0
    first = draw(0, size)
    if spec.samples == 1:
        return first, {}
    seen, good = [first], int(first.varies(spec.samples).sum())
    while good < size and len(seen) <= attempts:
        seen.append(draw(len(seen), size - good))
        good += int(seen[-1].varies(spec.samples).sum())
    drawn = sum(len(batch.examples) for batch in seen)
    numbers = {"groups_without_variance": 1 - good / drawn}
    if not attempts:
        return first, numbers
    return _kept(seen, size, spec.samples), {**numbers, "prompts_drawn": float(drawn)}


def _kept(seen: Sequence[Batch], size: int, samples: int) -> Batch:
    """`size` prompts: those that vary, as they were drawn, then as many others as are missing, the last with rewards first."""
    everything = joined(seen) if len(seen) > 1 else seen[0]
    varies = everything.varies(samples).tolist()
    order = [index for index, good in enumerate(varies) if good]
    unrewarded = everything.scores.view(-1, samples).isnan().all(1).tolist()
    others = [index for index in reversed(range(len(varies))) if not varies[index]]
    order += sorted(others, key=unrewarded.__getitem__)
    return everything.of(order[:size], samples)
