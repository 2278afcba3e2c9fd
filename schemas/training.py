"""The training stages' sections: pretrain, SFT and alignment, and the PEFT method that each may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Frozen, refused

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Full(Frozen):
    """Train every weight."""

    method: Literal["full"]
    """Every weight."""


class LoRA(Frozen):
    """Low-rank adaptation (arXiv 2106.09685), through Hugging Face peft."""

    method: Literal["lora"]
    """Low-rank adaptation."""
    r: Positive = 16
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale; the update is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the first low-rank matrix."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the linear layers; `all-linear` is all but the output head."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv 2312.03732)."""
    use_dora: bool = False
    """Decompose into magnitude and direction (arXiv 2402.09353)."""


Peft = Annotated[Full | LoRA, Field(discriminator="method")]


class EarlyStop(Frozen):
    """Stop when the validation loss no longer falls."""

    patience: Positive = 3
    """Validations in a row without an improvement after which training stops."""
    min_delta: NonNegative = 0.0
    """An improvement is a validation loss lower by more than this, in units of the loss."""


class Optimization(Frozen):
    """AdamW, its schedule, and how its course is judged on held-out examples."""

    learning_rate: Rate
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay on matrices; vectors (norms, biases) are not decayed."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay per step of AdamW's running mean of the gradient."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay per step of AdamW's running mean of the squared gradient."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this global norm."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each block and compute it again in the backward pass: less memory, about a third more time."""
    validations: Positive = 8
    """Times that the validation loss is measured, evenly spread over the steps, the last one after the last step."""
    early_stop: EarlyStop | None = None
    """Stop when the validation loss no longer falls; null = take every step."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result: those after the last step, or those with the lowest validation loss."""


class Pretrain(Optimization):
    """Next-token prediction on the kept documents."""

    tokens: Positive
    """Tokens to train on in all; the corpus is repeated as needed."""
    context: Annotated[int, Field(ge=8)] = 256
    """Tokens per row; a longer document is cut into pieces of this length."""
    batch_tokens: Positive = 4096
    """Tokens per optimizer step."""
    learning_rate: Rate = 3e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay on matrices."""


class SFT(Optimization):
    """Cross-entropy on the last assistant turn of each conversation."""

    epochs: Positive = 2
    """Passes over the training conversations."""
    batch_size: Positive = 32
    """Conversations per optimizer step."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest sequence in tokens; prompts are cut from the left, a longer completion is quarantined."""
    peft: Peft = Full(method="full")
    """What is trained."""


class DPO(Optimization):
    """Direct preference optimisation (arXiv 2305.18290)."""

    algorithm: Literal["dpo"]
    """Direct preference optimisation."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """Shape of the loss on the margin."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels (conservative DPO); sigmoid only."""
    epochs: Positive = 1
    """Passes over the training pairs."""
    batch_size: Positive = 32
    """Pairs per optimizer step."""
    learning_rate: Rate = 5e-4
    """Peak learning rate."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest prompt with one response in tokens; prompts are cut from the left, a longer response is quarantined."""
    peft: Peft = LoRA(method="lora")
    """What is trained."""

    @model_validator(mode="after")
    def _smoothing_has_a_meaning(self) -> DPO:
        if self.label_smoothing and self.loss != "sigmoid":
            raise refused("alignment.label_smoothing", f"{self.label_smoothing} with loss {self.loss}", "0, or loss sigmoid",
                          "remove label_smoothing, or choose loss sigmoid")  # fmt: skip
        return self


class NoAlignment(Frozen):
    """Stop after SFT."""

    algorithm: Literal["none"] = "none"
    """No alignment."""


Alignment = Annotated[DPO | NoAlignment, Field(discriminator="algorithm")]
