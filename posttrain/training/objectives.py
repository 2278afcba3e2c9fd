"""What a step minimises. An objective turns scored tokens into a loss summed over its units.

The loop divides by the units of the whole step: this order makes a mean over tokens (or pairs) exact across micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from posttrain.data.packing import Example
from posttrain.losses.language_model import cross_entropy_sum, z_loss_sum
from posttrain.losses.preference import Hyperparameters, at_start, preference_loss
from posttrain.losses.reward import bradley_terry
from posttrain.rewards.scorer import BranchRewards
from posttrain.scoring.scorer import Scorer, TokenScores
from posttrain.statistics.intervals import wins
from schemas.errors import Refusal
from schemas.training import DPO

Sums = Mapping[str, Tensor]


class Objective(Protocol):
    """A training objective over a fixed set of examples."""

    @property
    def examples(self) -> Sequence[Example]:
        """What is trained on."""

    def units(self, rows: Sequence[int]) -> int:
        """How many units (tokens, pairs) the loss of these rows is a mean over."""

    def loss(self, scores: Any, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """Loss and metrics of these rows, both summed over units; `scores` is what the job's scorer made of them."""


@runtime_checkable
class StepWide(Protocol):
    """What an objective adds whose loss needs a number of all rows of a step, before the first of its micro-batches."""

    def begin(self, scorer: Scorer, rows: Sequence[int], budget: int) -> None:
        """Look at the rows of a step with the policy as it is before it, `budget` tokens at a time."""


@runtime_checkable
class Compared(Protocol):
    """What an objective adds that starts from its reference."""

    @property
    def at_start(self) -> float | None:
        """The mean loss before the first step, where it is known without a look at the policy."""


class Rounds(Protocol):
    """What an objective adds whose examples change: a round of steps trains on what was collected before its first one."""

    @property
    def over(self) -> str:
        """Why training ends before the plan does, in words; empty while it goes on."""

    def enter(self, step: int) -> bool:
        """Called before step `step` (from 0): collect examples where a round begins; False leaves the step out."""

    def ends(self, step: int) -> bool:
        """Whether a round ends with the step that makes `step` in all."""

    def trial(self, forward: Callable[..., Any]) -> Tensor:
        """A loss before the first round, made by `forward` of examples, whose gradient reaches all that is trained."""

    def idle(self, name: str) -> bool:
        """Whether the tensor of this name, which is trained, stays as it is in this round's steps."""

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Called after each step with the metrics of its loss, summed over the units of this process."""

    def numbers(self) -> dict[str, float]:
        """What the round measured so far; replaces the step's numbers of the same name."""

    def state(self) -> Mapping[str, Any]:
        """All that the next step depends on beside model and optimizer, as tensors, numbers, strings, lists and dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""


@dataclass(frozen=True)
class LanguageModelling:
    """Mean cross-entropy per target token: pretraining and SFT."""

    examples: Sequence[Example]
    z_loss: float = field(default=0.0, kw_only=True)  # weight of the squared log-normaliser

    def units(self, rows: Sequence[int]) -> int:
        """Target tokens."""
        return sum(self.examples[row].targets for row in rows)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """Cross-entropy and, where it has a weight, the z-loss, summed over target tokens, and the loss of a mixture's router."""
        loss, balance = with_balance(cross_entropy_sum(scores.logprobs), scores, self.units(rows))
        if not self.z_loss:
            return loss, balance
        if scores.normaliser is None:
            raise Refusal(
                where="z_loss",
                found=f"{self.z_loss} with a model whose logits' normaliser is not computed",
                allowed="0",
                remedy="remove z_loss",
            )
        penalty = self.z_loss * z_loss_sum(scores.normaliser)
        return loss + penalty, {"z_loss": penalty.detach(), **balance}


@dataclass(frozen=True)
class Preference:
    """A loss of the DPO family, mean over pairs. Each example has the branches (chosen, rejected)."""

    examples: Sequence[Example]
    reference: Tensor | None  # [examples, 2]; None for a loss that has no reference
    beta: float
    kind: str = "sigmoid"
    smoothing: float = 0.0
    gamma: float = 0.0
    sft_weight: float = 0.0

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The numbers of the loss."""
        return Hyperparameters(self.beta, self.smoothing, self.gamma)

    @property
    def at_start(self) -> float | None:
        """ln 2 for `sigmoid`; None without a reference, and where the likelihood of chosen is a part of the loss."""
        return None if self.reference is None or self.sft_weight else at_start(self.kind, self.hyperparameters)

    def units(self, rows: Sequence[int]) -> int:
        """Pairs."""
        return len(rows)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss and the numbers by which a preference run is judged, summed over pairs.

        `reward`, `logprob` (per token, so that a falling likelihood of chosen is seen) and, where there is a reference, `kl` (the
        log-ratio per token, an estimate of the divergence from the reference) come once for each side of the pair.
        """
        policy = scores.per_branch().view(len(rows), 2)
        lengths = torch.tensor([self.examples[row].answer_lengths for row in rows], device=policy.device)
        reference = None if self.reference is None else self.reference[rows].to(policy.device)
        losses, rewards = preference_loss(policy, reference, lengths, self.kind, self.hyperparameters, self.sft_weight)
        margins = rewards[:, 0] - rewards[:, 1]
        sides = {"reward": rewards, "logprob": policy.detach() / lengths}
        if reference is not None:
            sides["kl"] = (policy.detach() - reference) / lengths
        loss, balance = with_balance(losses.sum(), scores, len(rows))
        return loss, {
            **balance,
            **_ranking(margins),
            **{f"{name}_chosen": values[:, 0].sum() for name, values in sides.items()},
            **{f"{name}_rejected": values[:, 1].sum() for name, values in sides.items()},
        }


def preference(spec: DPO, examples: Sequence[Example], reference: Tensor | None) -> Preference:
    """The objective that a recipe asks for; `reference` [examples or more, 2], None for a loss that has no reference."""
    gamma = spec.simpo_gamma or 0.0
    return Preference(examples, reference, spec.beta, spec.loss, spec.label_smoothing, gamma, spec.sft_weight)


@dataclass(frozen=True)
class BradleyTerry:
    """The reward model's loss, mean over pairs. Each example has the branches (chosen, rejected)."""

    examples: Sequence[Example]
    margin: float | Tensor = 0.0
    """By which chosen should win: of all pairs, or [pairs] of each, in fp32."""

    def units(self, rows: Sequence[int]) -> int:
        """Pairs."""
        return len(rows)

    def loss(self, scores: BranchRewards, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss, how often and by how much chosen wins, and the rewards of both sides, summed over pairs."""
        chosen, rejected = scores.per_branch().view(len(rows), 2).unbind(1)
        rewards = {"reward_chosen": chosen.detach().sum(), "reward_rejected": rejected.detach().sum()}
        margin = self.margin[list(rows)].to(chosen.device) if isinstance(self.margin, Tensor) else self.margin
        return bradley_terry(chosen, rejected, margin).sum(), {**_ranking((chosen - rejected).detach()), **rewards}


def with_balance(loss: Tensor, scores: TokenScores, units: int) -> tuple[Tensor, Sums]:
    """A sum over units with the auxiliary loss of a mixture of experts, which is one for the whole batch, added to each unit."""
    if scores.balance is None:
        return loss, {}
    return loss + units * scores.balance, {"aux_loss": units * scores.balance.detach()}


def _ranking(margins: Tensor) -> Sums:
    """Sums over pairs of the margins [B] by which chosen wins, and of the wins, ties counting half."""
    return {"margin": margins.sum(), "accuracy": wins(margins).sum()}
