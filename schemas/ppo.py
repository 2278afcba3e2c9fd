"""The alignment section's other algorithm: policy optimisation against rewards on the policy's own responses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen, refused
from schemas.fields import AboveZero, ImportName, ModelUri, NonNegative, Number, Positive, Share, Temperature
from schemas.peft import LoRA, Peft
from schemas.training import Optimization, Rate


class Rewarding(Frozen):
    """What every source of rewards has."""

    weight: Annotated[float, Number] = 1.0
    """Factor of this reward in the sum."""


class StageReward(Rewarding):
    """The reward model that this run trains."""

    source: Literal["model"]
    """The stage `reward`."""

    @property
    def label(self) -> str:
        """A short name for curves."""
        return "model"


class RegistryReward(Rewarding):
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


RewardSource = Annotated[StageReward | RegistryReward | FunctionReward, Field(discriminator="source")]


class KL(Frozen):
    """The pull to the reference: a penalty on log π - log π_ref of every token."""

    coefficient: NonNegative = 0.05
    """Weight in units of the reward per nat; the first one where it adapts."""
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


class PPO(Optimization):
    """Proximal policy optimisation (arXiv 1707.06347) from rewards, after arXiv 1909.08593 and 2403.17031."""

    algorithm: Literal["ppo"]
    """Proximal policy optimisation."""
    advantage: Literal["gae", "rloo", "grpo"] = "gae"
    """How a token's advantage is estimated: with a value model (arXiv 1506.02438), or from a prompt's other responses alone
    (leave-one-out, arXiv 2402.14740; group-relative, arXiv 2402.03300)."""
    reward: Annotated[tuple[RewardSource, ...], Field(min_length=1)]
    """What is maximised: one source, or several that are summed with their weights."""
    monitor: tuple[RewardSource, ...] = ()
    """Measured beside it and not optimised: a ground truth or a held-out reward model, by which reward hacking is seen."""
    iterations: Positive = 40
    """Rounds of sampling responses and training on them."""
    rollouts: Positive = 64
    """Responses per iteration."""
    samples: Positive = 1
    """Responses per prompt, so that an iteration has rollouts / samples prompts; `rloo` and `grpo` compare at least 2."""
    epochs: Positive = 4
    """Passes over an iteration's responses."""
    minibatches: Positive = 4
    """Optimizer steps per pass."""
    max_new_tokens: Positive = 48
    """Longest response in tokens."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest prompt with its response in tokens; prompts are cut from the left."""
    temperature: Temperature = 0.7
    """Divides the logits of policy and reference, in sampling and in training."""
    kl: KL = KL()
    """The pull to the reference."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε: beyond 1 ± ε the probability ratio of a token gains nothing more."""
    value_clip: AboveZero = 0.2
    """The value of a token may move by this much from the one at sampling; `gae` only."""
    value_coefficient: NonNegative = 0.1
    """Weight of the value loss; `gae` only."""
    value_model: Literal["trunk", "adapter"] = "trunk"
    """Where values come from: a head on the policy's last hidden states, or on those of a LoRA of its own on the same weights."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the policy's entropy, which is then maximised."""
    gamma: Share = 1.0
    """γ: discount per token; `gae` only."""
    lam: Share = 0.95
    """λ of generalised advantage estimation: 0 trusts the value model, 1 the sampled return; `gae` only."""
    missing_eos_penalty: NonNegative = 0.0
    """Subtracted from the reward of a response that was cut before it ended."""
    reward_clip: AboveZero | None = None
    """Rewards of a response are clipped to ± this; null = not."""
    whiten_rewards: bool = False
    """Divide token rewards by their standard deviation before advantages are estimated; `gae` only."""
    max_step_kl: AboveZero | None = None
    """Leave an iteration's further steps out once the policy moved by this much per token, in nats; null = take all."""
    learning_rate: Rate | None = None
    """Peak learning rate; null = by method and size of the model: LoRA 3e-5 at 100M parameters, 1e-5 from 7B on, in full 1e-6."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    peft: Peft = LoRA(method="lora")
    """What is trained."""

    @property
    def sources(self) -> tuple[RewardSource, ...]:
        """Every source of rewards, maximised or watching."""
        return (*self.reward, *self.monitor)

    @field_validator("reward", "monitor", mode="before", json_schema_input_type=RewardSource | tuple[RewardSource, ...])
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, dict | Rewarding) else given

    @model_validator(mode="after")
    def _numbers_go_together(self) -> PPO:
        for problem in itertools.chain(_uneven(self), _meaningless(self), _equal_names(self)):
            raise problem
        return self


def _uneven(spec: PPO) -> Iterator[PydanticCustomError]:
    """Numbers that do not go together."""
    if spec.rollouts % spec.samples:
        yield refused(
            where="alignment.rollouts",
            found=f"{spec.rollouts} with samples {spec.samples}",
            allowed=f"a multiple of {spec.samples}",
            remedy="change one of them",
        )
    if spec.minibatches > spec.rollouts // spec.samples:
        yield refused(
            where="alignment.minibatches",
            found=f"{spec.minibatches} with {spec.rollouts // spec.samples} prompts",
            allowed="at most one per prompt",
            remedy="lower it, or raise rollouts",
        )
    if spec.max_new_tokens > spec.max_length - 2:
        yield refused(
            where="alignment.max_new_tokens",
            found=f"{spec.max_new_tokens} with max_length {spec.max_length}",
            allowed=f"at most {spec.max_length - 2}, which leaves room for a prompt",
            remedy="lower it, or raise max_length",
        )
    if spec.kl.adaptive and spec.rollouts >= 5 * spec.kl.horizon:
        yield refused(
            where="alignment.kl.horizon",
            found=f"{spec.kl.horizon:g} with rollouts {spec.rollouts}",
            allowed=f"more than {spec.rollouts / 5:g}: one iteration would take the whole coefficient away",
            remedy="raise horizon: 10000 is the paper's",
        )
    if spec.advantage != "gae" and spec.samples < 2:
        yield refused(
            where="alignment.samples",
            found=f"{spec.samples} with advantage {spec.advantage}",
            allowed="2 or more",
            remedy="set samples=4, say: responses to one prompt are compared",
        )


def _equal_names(spec: PPO) -> Iterator[PydanticCustomError]:
    """Sources that would share one curve."""
    for field, sources in (("reward", spec.reward), ("monitor", spec.monitor)):
        labels = [source.label for source in sources]
        for label in dict.fromkeys(labels):
            if labels.count(label) > 1:
                yield refused(
                    where=f"alignment.{field}",
                    found=f"two sources of the name {label}",
                    allowed="names that differ",
                    remedy="rename or remove one of them",
                )


# Fields that nothing reads without a critic.
_OF_THE_CRITIC = ("value_clip", "value_coefficient", "value_model", "gamma", "lam", "whiten_rewards")


def _meaningless(spec: PPO) -> Iterator[PydanticCustomError]:
    """Values that nothing would read."""
    for name in _OF_THE_CRITIC:
        if spec.advantage != "gae" and getattr(spec, name) != PPO.model_fields[name].default:
            yield refused(
                where=f"alignment.{name}",
                found=f"{getattr(spec, name)} with advantage {spec.advantage}",
                allowed="advantage gae",
                remedy=f"remove {name}",
            )
    if spec.early_stop is not None or spec.keep == "best":
        name = "early_stop" if spec.early_stop is not None else "keep"
        yield refused(
            where=f"alignment.{name}",
            found="a choice by validation loss with algorithm ppo",
            allowed="nothing: PPO has none",
            remedy=f"remove {name}; the gates of evaluation judge the result",
        )
