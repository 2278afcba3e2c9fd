"""The alignment section's other algorithm: policy optimisation against rewards on the policy's own responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.fields import AboveZero, NonNegative, Number, Positive, Share, Temperature
from schemas.peft import LoRA, Peft
from schemas.ppo_parts import KL as KL
from schemas.ppo_parts import Critic, Refresh, ServedSampler, Stop
from schemas.ppo_rewards import EndpointReward as EndpointReward
from schemas.ppo_rewards import FunctionReward as FunctionReward
from schemas.ppo_rewards import RegistryReward as RegistryReward
from schemas.ppo_rewards import Rewarding
from schemas.ppo_rewards import RewardSource as RewardSource
from schemas.ppo_rewards import StageReward as StageReward
from schemas.ppo_rules import problems_of
from schemas.training import Optimization, Rate


class PPO(Optimization):
    """Proximal policy optimisation (arXiv 1707.06347) from rewards, after arXiv 1909.08593 and 2403.17031."""

    algorithm: Literal["ppo"]
    """Proximal policy optimisation."""
    advantage: Literal["gae", "rloo", "grpo"] = "gae"
    """How a token's advantage is estimated: with a value model (arXiv 1506.02438), or from a prompt's other responses alone
    (leave-one-out, arXiv 2402.14740; group-relative, arXiv 2402.03300)."""
    reward: Annotated[tuple[RewardSource, ...], Field(min_length=1)]
    """What is maximised: one source, or several that are summed with their weights."""
    ensemble_penalty: NonNegative = 0.0
    """k: reward models among `reward` are an ensemble, whose share of the sum falls by k standard deviations of what they say of
    a response, in units of their weights (arXiv 2401.00243); 0 = their sum."""
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
    sampler: ServedSampler | None = None
    """A server that draws the responses; null = this process."""
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
