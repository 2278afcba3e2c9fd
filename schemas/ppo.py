"""The alignment section's other algorithm: policy optimisation against rewards on the policy's own responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.base import Frozen, refused
from schemas.fields import AboveZero, ImportName, ModelUri, NonNegative, Number, Positive, Share, Temperature
from schemas.peft import LoRA, Peft
from schemas.ppo_parts import KL as KL
from schemas.ppo_parts import Critic, Refresh, Stop
from schemas.ppo_rules import problems_of
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
    surrogate: Literal["clip", "cispo"] = "clip"
    """What stands for the policy's objective: the clipped one of PPO, or that of CISPO (arXiv 2506.13585, equation 4), which caps
    the ratio as a weight and lets the gradient of every token through."""
    ratio: Literal["token", "sequence"] = "token"
    """Probability ratios of tokens, or of whole responses (the geometric mean; GSPO, arXiv 2507.18071, equation 7)."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε: beyond 1 ± ε the probability ratio of a token gains nothing more."""
    clip_high: AboveZero | None = None
    """ε above 1, where it differs from the one below (DAPO, arXiv 2503.14476, equation 10: 0.28); null = `clip`. Of CISPO it is
    the only one."""
    dual_clip: Annotated[float, Field(gt=1), Number] | None = None
    """c: a token with a negative advantage loses at most c times it, however large its ratio (arXiv 1912.09729, equation 5: 3);
    null = no limit."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """What a step's loss is a mean over: its tokens (DAPO, arXiv 2503.14476, equation 8), its responses, each the mean of its
    tokens (GRPO, arXiv 2402.03300, equation 3), or responses times `max_new_tokens` (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    mask_truncated: bool = False
    """Leave responses that were cut before they ended out of every loss (DAPO, arXiv 2503.14476, section 3.4)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What a centred reward is divided by: the standard deviation of its prompt's responses, of all of the iteration, or 1
    (Dr. GRPO, arXiv 2503.20783, section 3.2); `grpo` only."""
    dynamic_sampling: Positive | None = None
    """Prompts whose responses all have one reward teach nothing: draw others in their place, at most so many times an iteration
    (DAPO, arXiv 2503.14476, equation 11); null = take what comes."""
    value_clip: AboveZero | None = None
    """The value of a token may move by this much from the one at sampling; null = freely; `gae` only."""
    value_coefficient: NonNegative = 0.1
    """Weight of the value loss; `gae` only."""
    value_model: Literal["trunk", "adapter"] = "adapter"
    """Where values come from: a head on the policy's last hidden states, or on those of a LoRA of its own on the same weights,
    which takes about twice the time of a step and is what comes to explain the returns; `gae` only."""
    critic: Critic = Critic()
    """Start, rate and warm-up of the value model; `gae` only."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the policy's entropy, which is then maximised."""
    sft_weight: NonNegative = 0.0
    """Weight of the negative log-likelihood per token of the data's own answers (the chosen ones of pairs) to the same prompts
    (PPO-ptx, arXiv 2203.02155, equation 2); 0 = none."""
    gamma: Share = 1.0
    """γ: discount per token; `gae` only."""
    lam: Share = 0.95
    """λ of generalised advantage estimation: 0 trusts the value model, 1 the sampled return; `gae` only."""
    lambda_value: Share = 1.0
    """λ of the returns that values are trained to predict; 1 = the sampled ones (VC-PPO, arXiv 2503.01491, section 3.2); `gae`
    only."""
    missing_eos_penalty: NonNegative = 0.0
    """Subtracted from the reward of a response that was cut before it ended."""
    eos_reward: NonNegative = 0.0
    """Added to the reward of a response that ended before it was cut."""
    overlong_buffer: Positive | None = None
    """Over the last so many tokens before `max_new_tokens` the reward falls linearly by `overlong_penalty` (DAPO, arXiv
    2503.14476, equation 13); null = it does not."""
    overlong_penalty: AboveZero = 1.0
    """What a response of `max_new_tokens` loses, in units of the reward; `overlong_buffer` only."""
    reward_clip: AboveZero | None = None
    """Rewards of a response are clipped to ± this; null = not."""
    whiten_rewards: bool = False
    """Divide token rewards by their standard deviation before advantages are estimated; `gae` only."""
    max_step_kl: AboveZero | None = None
    """Leave an iteration's further steps out once the policy moved by this much per token, in nats; null = take all."""
    reference_refresh: Refresh | None = None
    """Move the reference after the policy now and then; null = it stays the policy at the start."""
    stop: Stop = Stop()
    """When training ends before its last iteration."""
    held_out_prompts: Annotated[int, Field(ge=0)] = 64
    """Held-out prompts that are answered and rewarded at each of `validations`, at the end of an iteration; 0 = none."""
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

    @property
    def kl_place(self) -> Literal["reward", "loss"] | None:
        """Where the divergence from the reference counts; None where there is no reference."""
        by_default: Literal["reward", "loss"] = "loss" if self.advantage == "grpo" else "reward"
        return (self.kl.place or by_default) if self.kl.coefficient else None

    @property
    def kl_estimator(self) -> Literal["k1", "k2", "k3"]:
        """The estimate of the divergence."""
        return self.kl.estimator or ("k3" if self.kl_place == "loss" else "k1")

    @model_validator(mode="after")
    def _numbers_go_together(self) -> PPO:
        for problem in problems_of(self):
            raise problem
        return self
