"""Sources of rewards for PPO: reward models, functions, and language models behind an endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.endpoint import Endpoint
from schemas.fields import AboveZero, ImportName, ModelUri, Number, Share


class Rewarding(Frozen):
    """What every source of rewards has."""

    weight: Annotated[float, Number] = 1.0
    """Factor of this reward in the sum."""


class Learned(Rewarding):
    """What every reward model has."""

    standardise: bool = True
    """Divide its rewards by their standard deviation over the policy's own answers before training (arXiv 1909.08593, section
    2.2), so that weights, the KL coefficient and the value clip mean the same with every reward model."""


class StageReward(Learned):
    """The reward model that this run trains."""

    source: Literal["model"]
    """The stage `reward`."""

    @property
    def label(self) -> str:
        """A short name for curves."""
        return "model"


class RegistryReward(Learned):
    """A reward model in the registry."""

    source: Literal["registry"]
    """A registered reward model."""
    uri: ModelUri
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

    @property
    def label(self) -> str:
        """A short name for curves."""
        return self.uri.removeprefix("models:/").replace("/", "_").replace("@", "_")


class FunctionReward(Rewarding):
    """A Python function of (prompts, responses) or (prompts, responses, rows) that returns one reward per response.

    A reward of None means that the function does not apply to this response.
    """

    source: Literal["function"]
    """A Python function."""
    name: ImportName
    """`module:function`."""
    timeout_seconds: AboveZero = 60.0
    """Longest time that one call, with all responses of an iteration, may take."""
    max_failed: Share = 0.0
    """Share of an iteration's responses with which the function may fail (raise, die, hang, give no finite number): they are
    counted, named and left out; 0: none may."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that each call the function with a part of an iteration's responses, and are killed when they hang; 0 calls it in
    the process that trains, which a call that hangs or ends it takes along."""
    memory_gb: AboveZero | None = None
    """Address space of each of `workers`, in 10⁹ bytes; null = no limit."""

    @property
    def label(self) -> str:
        """A short name for curves."""
        return self.name.partition(":")[2]

    @model_validator(mode="after")
    def _memory_is_of_workers(self) -> FunctionReward:
        if self.memory_gb is not None and not self.workers:
            raise refused(
                where="alignment.reward.memory_gb",
                found=f"{self.memory_gb:g} with workers 0",
                allowed="null, or workers of 1 and more: the process that trains has no limit of its own",
                remedy="set workers=2, say",
            )
        return self


class EndpointReward(Rewarding, Endpoint):
    """A language model behind an OpenAI-compatible endpoint, which scores each response. Its answers are kept in the store."""

    source: Literal["endpoint"]
    """An OpenAI-compatible endpoint."""
    criteria: Annotated[str, Field(min_length=1, max_length=8000)] = "helpfulness, correctness and honesty"
    """By what it judges: completes the sentence "Judge by ...". """
    scale: Annotated[int, Field(ge=2, le=100), Number] = 10
    """Highest score; the lowest is 1."""
    max_failed: Share = 0.2
    """Largest share of an iteration's responses without a score, which are left out; with more, the run is refused."""

    @property
    def label(self) -> str:
        """A short name for curves."""
        return re.sub(r"\W+", "_", self.model.rpartition("/")[2])


RewardSource = Annotated[StageReward | RegistryReward | FunctionReward | EndpointReward, Field(discriminator="source")]
