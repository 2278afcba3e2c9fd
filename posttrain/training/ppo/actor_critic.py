"""Policy and critic on one backbone: the last hidden states of the policy, or of a copy with a LoRA of its own, become values.

Value head and copy are submodules of the policy while it trains, so that optimizer and checkpoints see them, and are taken off
before it is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posttrain.data.packing import Example
from posttrain.models.parameters import trainable_count
from posttrain.scoring.layouts import Located
from posttrain.scoring.output_head import Head, head_of
from posttrain.scoring.products import fp32_linear
from posttrain.scoring.reference import Reference
from posttrain.scoring.scorer import Scorer, TokenScores, inner_model
from posttrain.training.dropout import without_dropout
from schemas.ppo import PPO

VALUE_HEAD, CRITIC = "value_head", "critic"
ENTROPY_LOGITS = 2**22  # held at once while the entropy is differentiated


class ActorCritic(Scorer):
    """A scorer whose scores have values, and the entropy where it is trained on."""

    entropy = False
    """Whether scores carry a differentiable entropy."""
    trains_trunk = False
    """Whether the gradient of values read off the policy's hidden states goes on into the policy."""

    def _score(self, at: Located, statistics: bool) -> TokenScores:
        scores = super()._score(at, statistics)
        if self.entropy and torch.is_grad_enabled():
            scores = replace(scores, entropy=entropy(at.hidden, head_of(inner_model(self.model), self.temperature)))
        return scores

    def forward(self, examples: Sequence[Example], statistics: bool = False) -> TokenScores:
        """As a scorer does; with the values of a critic where the policy has one."""
        inner = inner_model(self.model)
        if not hasattr(inner, VALUE_HEAD) and not hasattr(inner, CRITIC):
            return super().forward(examples, statistics)
        with self.arithmetic():
            at = self.locate(examples)
            scores = self._score(at, statistics)
            critic = getattr(inner, CRITIC, None)
            if critic is None:
                hidden = at.hidden if self.trains_trunk else at.hidden.detach()
            else:
                hidden = Scorer(critic, self.device, self.dtype, self.layout).locate(examples).hidden
        return replace(scores, values=_values(inner if critic is None else inner_model(critic), hidden))


def _values(model: Any, hidden: Tensor) -> Tensor:
    """[N] of hidden states [N, H], in fp32."""
    values: Tensor = getattr(model, VALUE_HEAD)(hidden.float())[:, 0]
    return values


def entropy(hidden: Tensor, head: Head) -> Tensor:
    """Entropy of the next-token distribution in nats [N], differentiable; the backward pass makes the logits again."""
    rows = max(1, ENTROPY_LOGITS // len(head.weight))
    parts = [checkpoint(_entropy, part, head, use_reentrant=False) for part in hidden.split(rows)]
    return torch.cat(parts) if parts else hidden.new_zeros(0)


def _entropy(hidden: Tensor, head: Head) -> Tensor:
    raw = fp32_linear(hidden, head.weight, head.bias) * head.scale
    logits = raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)
    logprobs = (logits / head.temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def add_value_head(model: nn.Module, width: int | None = None) -> None:
    """Put a head on a model that says 0 everywhere, and trains; `width` of the hidden states where no output head tells it."""
    inner = inner_model(model)
    width = width or inner.get_output_embeddings().weight.shape[1]
    head = nn.Linear(width, 1, device=next(inner.parameters()).device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    inner.add_module(VALUE_HEAD, head)


def add_critic(model: nn.Module, critic: nn.Module) -> None:
    """Have values come from `critic`, a model with a value head."""
    inner_model(model).add_module(CRITIC, critic)


def start_policy(policy: nn.Module, spec: PPO, critic: nn.Module | None) -> Reference | None:
    """Make a wrapped policy ready for PPO: dropout off, with a critic where the section asks for one.

    Args:
        policy: the model with the method's parameters.
        spec: the section.
        critic: of `new_critic`.

    Returns:
        the reference, where the section has a use for one.
    """
    without_dropout(policy)
    reference = Reference(policy) if spec.kl_place else None
    if critic is not None:
        add_critic(policy, critic)
    elif spec.advantage == "gae":
        add_value_head(policy)
    return reference


def is_critic(name: str) -> bool:
    """Whether a parameter of the policy, by its name, is one of the critic's."""
    return not {VALUE_HEAD, CRITIC}.isdisjoint(name.split("."))


def remove_critic(model: nn.Module) -> int:
    """Take value head and critic off, and return how many of their parameters trained."""
    inner, before = inner_model(model), trainable_count(model)
    for name in (VALUE_HEAD, CRITIC):
        if hasattr(inner, name):
            delattr(inner, name)
    return before - trainable_count(model)
