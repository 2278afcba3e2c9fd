"""What a step minimises. An objective turns scored tokens into a loss summed over its units.

The loop divides by the units of the whole step: this order makes a mean over tokens (or pairs) exact across micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from posttrain.losses.language_model import cross_entropy_sum
from posttrain.losses.preference import preference_loss
from posttrain.packing import Example
from posttrain.scoring import TokenScores

Sums = Mapping[str, Tensor]


class Objective(Protocol):
    """A training objective over a fixed set of examples."""

    @property
    def examples(self) -> Sequence[Example]:
        """What is trained on."""

    def units(self, rows: Sequence[int]) -> int:
        """How many units (tokens, pairs) the loss of these rows is a mean over."""

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """Loss and metrics of these rows, both summed over units."""


@dataclass(frozen=True)
class LanguageModelling:
    """Mean cross-entropy per target token: pretraining and SFT."""

    examples: Sequence[Example]

    def units(self, rows: Sequence[int]) -> int:
        """Target tokens."""
        return sum(self.examples[row].targets for row in rows)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """Cross-entropy, summed over target tokens."""
        return cross_entropy_sum(scores.logprobs), {}


@dataclass(frozen=True)
class Preference:
    """A loss of the DPO family, mean over pairs. Each example has the branches (chosen, rejected)."""

    examples: Sequence[Example]
    reference: Tensor  # [examples, 2]
    beta: float
    kind: str = "sigmoid"
    smoothing: float = 0.0

    def units(self, rows: Sequence[int]) -> int:
        """Pairs."""
        return len(rows)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss and the numbers by which a DPO run is judged, summed over pairs."""
        policy = scores.per_branch().view(len(rows), 2)
        losses, rewards = preference_loss(policy, self.reference[rows].to(policy.device), self.beta, self.kind, self.smoothing)
        margins = rewards[:, 0] - rewards[:, 1]
        lengths = torch.tensor([[len(b) for b in self.examples[row].branches] for row in rows], device=policy.device)
        means = policy.detach() / lengths
        return losses.sum(), {
            "margin": margins.sum(),
            "accuracy": ((margins > 0) + 0.5 * (margins == 0)).sum(),
            "reward_chosen": rewards[:, 0].sum(),
            "reward_rejected": rewards[:, 1].sum(),
            "logprob_chosen": means[:, 0].sum(),
            "logprob_rejected": means[:, 1].sum(),
        }
