"""KTO's objective: single answers with a label, and the divergence that each step estimates before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from posttrain.data.encode import cut_left
from posttrain.data.packing import Example, prompt_groups
from posttrain.losses.kto import Weights, divergence, kto_loss
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer, TokenScores
from posttrain.statistics.intervals import wins
from posttrain.training.objectives import Sums, with_balance

Mismatch = tuple[int, int]
"""An example, and the one whose answer is put after its prompt."""


def mismatches(rows: Sequence[int], prompts: Sequence[int]) -> list[Mismatch]:
    """Each row of a step with the next row of the step, in its order and from its start again, that has another prompt.

    Section 4 of arXiv 2402.01306 shifts the answers of a batch by one; here the batch is the whole optimizer step. A row is left
    out where all rows have its prompt.

    Args:
        rows: examples of the step.
        prompts: a number for each example, equal where prompts are.
    """
    found = []
    for at, row in enumerate(rows):
        others = (rows[(at + ahead) % len(rows)] for ahead in range(1, len(rows)))
        other = next((each for each in others if prompts[each] != prompts[row]), None)
        if other is not None:
            found.append((row, other))
    return found


@dataclass(frozen=True)
class Answers:
    """Single answers with their labels."""

    examples: Sequence[Example]
    """Of one branch each."""
    desirable: Tensor
    """[examples] booleans."""
    max_length: int
    """Tokens of a prompt with another one's answer, beyond which the prompt is cut from the left."""
    bos: int | None = None
    """Token that stays at the start of a prompt that is cut."""

    def mismatched(self, pairs: Iterable[Mismatch]) -> list[Example]:
        """Prompts with other prompts' answers."""
        answers = [(self.examples[row].prompt, self.examples[other]) for row, other in pairs]
        return [
            replace(said, prompt=cut_left(prompt, self.max_length - len(said.branches[0]), self.bos)) for prompt, said in answers
        ]


@dataclass
class Unpaired:
    """KTO, mean over answers. `begin` must have seen a step before its loss is taken; without it the divergence counts as 0."""

    answers: Answers
    reference: Tensor
    """[examples] log-probabilities of the answers under the reference."""
    elsewhere: Mapping[Mismatch, float] = field(default_factory=dict)
    """The same of every mismatch of the steps to come."""
    weights: Weights = field(default_factory=Weights)
    prompts: Sequence[int] = field(default_factory=list)
    """Of each example, equal where prompts are."""

    def __post_init__(self) -> None:
        self.prompts = self.prompts or prompt_groups(self.answers.examples)
        self.z = torch.zeros(())
        """The divergence of this step."""
        self.rows: Sequence[int] = ()
        """Examples of this step."""

    @property
    def examples(self) -> Sequence[Example]:
        """What is trained on."""
        return self.answers.examples

    @property
    def at_start(self) -> float:
        """The loss where policy and reference are equal: r = z = 0, hence λ_y / 2."""
        return float(self.weights.of(self.answers.desirable).double().mean()) / 2

    def units(self, rows: Sequence[int]) -> int:
        """Answers."""
        return len(rows)

    @torch.no_grad()
    def begin(self, scorer: Scorer, rows: Sequence[int], budget: int) -> None:
        """Estimate the divergence of the policy as it is before the step over `rows`, on mismatches among them.

        Processes that train together share the work. Nothing is drawn at random: an adapter's dropout is off.
        """
        self.rows, pairs = rows, mismatches(rows, self.prompts)
        if not pairs:
            self.z = torch.zeros((), device=scorer.device)
            return
        training = scorer.training
        policy = score_branches(scorer.eval(), self.answers.mismatched(pairs), budget)[:, 0]
        scorer.train(training)
        self.z = divergence(policy, torch.tensor([self.elsewhere[pair] for pair in pairs])).to(scorer.device)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss, and the numbers by which a run is judged, so that their sums over a step's micro-batches are its means.

        `reward`, `logprob` and `kl` (the log-ratio) per token come for desirable answers and for the others. `label_accuracy` is
        the share of answers that are on their label's side of the divergence, `divergence` the step's estimate in nats.
        """
        policy = scores.per_branch()
        reference, desirable = (each[rows].to(policy.device) for each in (self.reference, self.answers.desirable))
        losses, rewards = kto_loss(policy, reference, desirable, self.z.to(policy.device), self.weights)
        tokens = torch.tensor([self.examples[row].targets for row in rows], device=policy.device)
        kinds = {
            "reward": rewards,
            "logprob": policy.detach() / tokens,
            "kl": (policy.detach() - reference) / tokens,
        }
        beyond = torch.where(desirable, 1.0, -1.0) * (rewards - self.weights.beta * self.z.to(policy.device))
        loss, balance = with_balance(losses.sum(), scores, len(rows))
        return loss, {
            **balance,
            **self._by_label(kinds, desirable, rows),
            "label_accuracy": wins(beyond).sum(),
            "divergence": self.z.to(policy.device) * len(rows),
        }

    def _by_label(self, kinds: Mapping[str, Tensor], desirable: Tensor, rows: Sequence[int]) -> dict[str, Any]:
        """Sums over these rows which, divided by the step's rows, add up to the means over its answers of each label."""
        step = list(self.rows or rows)
        good = int(self.answers.desirable[step].sum())
        sides = {"desirable": (desirable, good), "undesirable": (~desirable, len(step) - good)}
        return {
            f"{name}_{side}": (values * of_side).sum() * len(step) / count
            for name, values in kinds.items()
            for side, (of_side, count) in sides.items()
            if count
        }
