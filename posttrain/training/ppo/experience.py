"""What a policy did in one iteration and what is to be learned from it: responses, scores, advantages, weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from posttrain.data.packing import Example, Tokens


@dataclass(frozen=True)
class Scored:
    """P prompts with their responses, R in all, and what policy, reference and critic say of the N tokens of these.

    Tokens are in the order of the examples and their branches.
    """

    examples: list[Example]
    logprobs: Tensor  # [N] under the policy that sampled them
    reference: Tensor | None  # [N]; None where there is no reference
    entropy: Tensor  # [N] nats
    values: Tensor | None  # [N]; None without a critic

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response, [R]."""
        return [len(branch) for example in self.examples for branch in example.branches]

    def rows(self, tokens: Tensor) -> Tensor:
        """[N] as [R, T], padded with 0."""
        return pad_sequence(list(tokens.split(self.lengths)), batch_first=True)

    @property
    def mask(self) -> Tensor:
        """[R, T], 1 on tokens."""
        return self.rows(torch.ones_like(self.logprobs))

    def flat(self, rows: Tensor) -> Tensor:
        """[R, T] as [N]."""
        return rows[self.mask.bool()]


@dataclass(frozen=True)
class Experience:
    """Scored responses with their advantages: what the steps of an iteration train on."""

    scored: Scored
    advantages: Tensor  # [N]
    returns: Tensor | None  # [N] what values are trained to predict; None without a critic
    weights: Tensor  # [N] of the tokens in a step's sum
    units: Tensor  # [R] int: what a response adds to the number that divides the sum
    numbers: Mapping[str, float] = field(default_factory=dict)  # about the estimates, for the curve
    importance: Tensor | None = None  # [N] weights of the policy loss, where somebody else sampled
    given: tuple[Tokens, ...] = ()  # the data's own answer to each prompt, where the recipe mixes them in

    @functools.cached_property
    def examples(self) -> list[Example]:
        """What is scored in a step: prompts with their responses, and last the data's own answer where there are some."""
        if not self.given:
            return self.scored.examples
        pairs = zip(self.scored.examples, self.given, strict=True)
        return [Example(example.prompt, (*example.branches, answer)) for example, answer in pairs]

    @property
    def units_per_given_token(self) -> float:
        """By which the sum over the data's tokens becomes their mean, when it is divided as the sum over responses is."""
        return float(self.units.sum()) / max(1, sum(map(len, self.given)))

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """Indices of the tokens of some examples, in their order."""
        ends = np.cumsum([0, *(example.targets for example in self.scored.examples)])
        return torch.from_numpy(np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows]))

    def units_of(self, rows: Sequence[int]) -> int:
        """What divides the sum over these examples; 1 where none of their responses counts."""
        each = self.units.split([len(example.branches) for example in self.scored.examples])
        return max(1, sum(int(each[row].sum()) for row in rows))

    def state(self) -> dict[str, Any]:
        """As tensors and lists, for a checkpoint."""
        return {
            "prompts": [torch.from_numpy(example.prompt) for example in self.scored.examples],
            "given": [torch.from_numpy(answer) for answer in self.given],
            "branches": [[torch.from_numpy(branch) for branch in example.branches] for example in self.scored.examples],
            "tokens": {
                name: tensor for name, tensor in {**vars(self.scored), **vars(self)}.items() if isinstance(tensor, Tensor)
            },
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Experience:
        """The experience that gave `state`."""
        pairs = zip(state["prompts"], state["branches"], strict=True)
        examples = [Example(prompt.numpy(), tuple(branch.numpy() for branch in branches)) for prompt, branches in pairs]
        tokens = {**dict.fromkeys(("values", "returns", "reference", "importance")), **state["tokens"]}
        of_scored = {name: tokens.pop(name) for name in ("logprobs", "reference", "entropy", "values")}
        return cls(Scored(examples, **of_scored), **tokens, given=tuple(answer.numpy() for answer in state["given"]))
