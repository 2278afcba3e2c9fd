"""The reward model's section: trained on the preference pairs, beside the policy and not into it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.fields import NonNegative, Positive
from schemas.model import HubModel, LocalModel
from schemas.peft import LoRA, Peft
from schemas.training import Rate, RowTraining


class ScratchEncoder(Frozen):
    """A new BERT with the policy's tokenizer, for small tasks: it reads the response knowing how the response ends."""

    source: Literal["scratch"]
    """A new model."""
    architecture: Literal["bert"] = "bert"
    """Encoder with learned positions, without dropout."""
    hidden_size: Positive = 128
    """Width of the residual stream."""
    layers: Positive = 4
    """Number of transformer blocks."""
    heads: Positive = 4
    """Attention heads per block; must divide hidden_size."""
    intermediate_size: Positive | None = None
    """Width of the feed-forward layer; null is 4 times hidden_size."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ScratchEncoder:
        if self.hidden_size % self.heads:
            raise refused(
                where="reward.model.heads",
                found=f"{self.heads} with hidden_size {self.hidden_size}",
                allowed="a divisor of hidden_size",
                remedy=f"choose heads so that it divides {self.hidden_size}",
            )
        return self


RewardBase = Annotated[HubModel | LocalModel | ScratchEncoder, Field(discriminator="source")]


class RewardTraining(RowTraining):
    """A score that ranks chosen responses above rejected ones (Bradley-Terry), trained before alignment and beside the policy."""

    model: RewardBase | None = None
    """Where its weights start; null = the policy before alignment, whose weights it then shares in memory with PPO's policy."""
    margin: NonNegative = 0.0
    """Margin, in units of the reward, that chosen should have over rejected (arXiv 2307.09288 section 3.2.2); 0 = none."""
    margin_per_score: NonNegative = 0.0
    """Margin, beside `margin`, for each point by which the pair's scores differ, where it has scores (graded preferences, as
    above); 0 = none."""
    centre: bool = True
    """Subtract the mean reward of all training responses from every reward."""
    learning_rate: Rate | None = None
    """Peak learning rate; null = by method and size of the model: 1e-4 for LoRA from 100M parameters on, 1e-5 in full."""
    peft: Peft = LoRA(method="lora")
    """What is trained beside the score head."""

    @model_validator(mode="after")
    def _its_base_is_read_as_it_is(self) -> RewardTraining:
        for name in ("quantization", "resize_embeddings"):
            if given := getattr(self.model, name, None):
                raise refused(
                    where=f"reward.model.{name}",
                    found=str(given).lower(),
                    allowed="nothing: it is a field of the policy's model",
                    remedy=f"remove {name}",
                )
        return self

    @model_validator(mode="after")
    def _new_weights_are_trained(self) -> RewardTraining:
        if isinstance(self.model, ScratchEncoder) and self.peft.method != "full":
            raise refused(
                where="reward.peft.method",
                found=f"{self.peft.method} with reward.model.source scratch",
                allowed="full: nothing has trained what would be frozen",
                remedy="set reward.peft.method=full",
            )
        if getattr(self.peft, "head", False):
            raise refused(
                where="reward.peft.head",
                found="true",
                allowed="false: a reward model has a score in place of the output head",
                remedy="remove head: the score is always trained",
            )
        return self
