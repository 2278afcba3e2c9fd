"""Parts of PPO's section: the critic, the divergence from the reference, and when training ends before its last iteration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.endpoint import Server
from schemas.fields import AboveZero, NonNegative, Positive, Share
from schemas.training import Rate

CRITIC_STARTS = ("lora", "full")
"""Methods of a reward model that began as the policy and that a critic can go on from."""


class Critic(Frozen):
    """How the value model learns; `gae` only."""

    init: Literal["reward_model", "zero"] | None = None
    """Where its weights start: as this run's reward model (arXiv 1909.08593, section 2.1), or with a head that says 0
    everywhere; null = the reward model where `value_model` is adapter and that began as the policy and trained a LoRA, which the
    critic goes on training, or every weight, which then stand below a new LoRA; else zero."""
    learning_rate: Rate | None = None
    """Peak learning rate, of the same shape as the policy's; null = the one that a reward model of this size trains with."""
    max_grad_norm: AboveZero = 1.0
    """Its gradients are scaled down to this norm, apart from the policy's."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    """The first so many of `iterations` train the critic alone."""
    trains_trunk: bool = False
    """Let the gradient of the value loss into the policy's weights, where values come from its trunk: it moves the policy."""


class KL(Frozen):
    """The pull to the reference: a penalty on an estimate of the divergence at every token."""

    coefficient: NonNegative = 0.05
    """Weight in units of the reward per nat; the first one where it adapts. 0 = no reference is kept or scored."""
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Estimate from the log-ratio r = log π_ref - log π (Schulman 2020): k1 = -r, k2 = r²/2, k3 = e^r - 1 - r; null = k1 in the
    reward and k3 in the loss."""
    place: Literal["reward", "loss"] | None = None
    """Where it counts: subtracted from the reward, or added to the loss; null = the loss with `grpo`, else the reward."""
    adaptive: bool = False
    """Move the coefficient so that the divergence of a response nears `target` (arXiv 1909.08593, section 2.2)."""
    target: AboveZero = 6.0
    """Divergence in nats per response; adaptive only."""
    horizon: AboveZero = 10_000.0
    """Responses over which the coefficient moves by at most a fifth; adaptive only."""

    @model_validator(mode="after")
    def _adapts_from_something(self) -> KL:
        if self.adaptive and self.coefficient == 0:
            raise refused(
                where="alignment.kl.coefficient",
                found="0 with adaptive true",
                allowed="a number above 0: factors adapt it, 0 stays 0",
                remedy="set coefficient=0.05, say, or adaptive=false",
            )
        return self


class Refresh(Frozen):
    """Move the reference after the policy (arXiv 2404.09656, equation 1)."""

    iterations: Positive
    """Iterations from one move to the next."""
    mix: Annotated[Share, Field(gt=0)] = 1.0
    """Share of the policy in the mean of both weights that is the new reference; 1 = the policy takes its place."""


class ServedSampler(Server):
    """A server that draws the responses: vLLM's, or another that speaks OpenAI's completions of token ids and loads LoRAs as
    vLLM does. It must serve the policy that alignment starts from, under `model`; each iteration's LoRA is loaded over it."""

    adapters: Annotated[str, Field(min_length=1)]
    """Folder that this process writes each iteration's LoRA into, and the server reads it from."""
    importance_cap: Annotated[float, Field(ge=1)] = 2.0
    """C: a token's policy loss is weighted by how likely the policy that trains made it, in shares of how likely the server did,
    at most C (truncated importance sampling: arXiv 1802.01561, section 4.1)."""
    max_mismatch: AboveZero = 0.1
    """Largest divergence of the server's policy from the one that trains, in nats per token; beyond it another policy is served,
    and the run is refused."""


class Stop(Frozen):
    """End training before its last iteration."""

    kl_per_response: AboveZero | None = None
    """Once an iteration's responses are farther from the reference than this, in nats; null = never."""
    monitor_falls: AboveZero | None = None
    """Once a monitor's mean lies below its best by more than this, in its units, for `patience` iterations; null = never."""
    patience: Positive = 3
    """Iterations in a row; `monitor_falls` only."""
