"""The training stages' sections: pretrain, SFT and alignment."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from schemas.base import Frozen, refused
from schemas.fields import AboveZero, BelowOne, NonNegative, Positive
from schemas.peft import Full as Full
from schemas.peft import LoRA
from schemas.peft import Peft as Peft

Rate = Annotated[float, Field(gt=0, le=1)]
Overlong = Literal["quarantine", "truncate"]
TrainOn = Literal["all", "last"]


class EarlyStop(Frozen):
    """Stop when the validation loss no longer falls."""

    patience: Positive = 3
    """Validations in a row without an improvement after which training stops."""
    min_delta: NonNegative = 0.0
    """An improvement is a validation loss lower by more than this, in units of the loss."""


class Optimization(Frozen):
    """AdamW, its schedule, and how its course is judged on held-out examples."""

    learning_rate: Rate | None
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    warmup_share: BelowOne = 0.05
    """Share of the steps in which the learning rate rises linearly, rounded up: with a share above 0 at least the first step is
    taken below the peak."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay on matrices; norms, biases (T5's relative ones, too) and factors (IA³, AdaLoRA) are not decayed."""
    adam_beta1: BelowOne = 0.9
    """Decay per step of AdamW's running mean of the gradient."""
    adam_beta2: BelowOne = 0.95
    """Decay per step of AdamW's running mean of the squared gradient."""
    adam_epsilon: AboveZero = 1e-8
    """Added to the root of AdamW's running mean of the squared gradient (PPO's authors: 1e-5, arXiv 2403.17031, detail 2)."""
    max_grad_norm: AboveZero = 1.0
    """Gradients are scaled down to this global norm."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each block and compute it again in the backward pass: less memory, about a third more time."""
    validations: Positive | None = None
    """Times that the validation loss is measured, evenly spread over the steps, the last one after the last step; null = 8, down
    to 4 where they would take more than a tenth of training's time and nothing stops early."""
    early_stop: EarlyStop | None = None
    """Stop when the validation loss no longer falls; null = take every step."""
    keep: Literal["last", "best"] | None = None
    """Which weights are the result: those after the last step, or those with the lowest validation loss, the weights at the start
    among them; null = the best where there are held-out rows, else the last."""


class Pretrain(Optimization):
    """Next-token prediction on the kept documents."""

    tokens: Positive
    """Tokens to train on in all; the corpus is repeated as needed."""
    context: Annotated[int, Field(ge=8)] = 256
    """Tokens per row; a longer document is cut into pieces of this length."""
    batch_tokens: Positive = 4096
    """Tokens per optimizer step."""
    dropout: BelowOne | None = None
    """Dropout wherever the model has a place for it; null = the checkpoint's own, none in a new model."""
    z_loss: NonNegative = 0.0
    """Weight of the squared log-normaliser, mean over target tokens (arXiv 2204.02311 section 5: 1e-4); 0 = none."""
    learning_rate: Rate = 3e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay on matrices."""
    keep: Literal["last", "best"] | None = None
    """Which weights are the result: those after the last step, or those with the lowest validation loss; null = the last."""


class RowTraining(Optimization):
    """Training that passes over conversations or preference pairs."""

    epochs: Positive = 1
    """Passes over the training rows: conversations, or preference pairs."""
    batch_size: Positive = 32
    """Training rows per optimizer step."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest prompt with one response in tokens; prompts are cut from the left first."""
    overlong: Overlong = "quarantine"
    """A response that does not fit max_length: left out with its reason, or cut at its end and used without EOS."""


class SFT(RowTraining):
    """Cross-entropy on the answers of each conversation."""

    train_on: TrainOn = "all"
    """Answers of a conversation that are trained on: `all` without `weight: 0`, or the `last`; encoder-decoders: the last."""
    epochs: Positive = 2
    """Passes over the training conversations."""
    learning_rate: Rate | None = None
    """Peak learning rate; null = by method and size of the model: 2e-4 for LoRA from 100M parameters on, 2e-5 in full at 7B."""
    z_loss: NonNegative = 0.0
    """Weight of the squared log-normaliser, mean over target tokens (arXiv 2204.02311 section 5); 0 = none."""
    dropout: BelowOne | None = None
    """Dropout wherever the model has a place for it; null = the checkpoint's own. Alignment and reward train without any."""
    neftune_alpha: AboveZero | None = None
    """Uniform noise on the embeddings of at most alpha / sqrt(tokens * width) (NEFTune, arXiv 2310.05914); null = none."""
    peft: Peft = Full(method="full")
    """What is trained."""


PreferenceLoss = Literal["sigmoid", "robust", "ipo", "hinge", "sigmoid_norm", "simpo", "orpo", "apo_zero", "kto_pair"]
"""Of pairs."""
AlignmentLoss = Literal[PreferenceLoss, "kto"]

# Fields that mean something for some losses only, and those that a loss cannot do without: its equation has no such number at 0,
# or (robust) is another loss's.
MEANS_SOMETHING_FOR: dict[str, tuple[str, ...]] = {
    "label_smoothing": ("sigmoid", "robust"),
    "simpo_gamma": ("simpo",),
    "sft_weight": tuple(name for name in get_args(PreferenceLoss) if name != "orpo"),  # which has the term already
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}
NEEDED_BY: dict[str, tuple[str, str]] = {
    "label_smoothing": ("robust", "set it (0.1, say), or choose loss sigmoid"),
    "simpo_gamma": ("simpo", "set it (0.3 to 1.6 in the paper, with beta 2 to 2.5)"),
}


class DPO(RowTraining):
    """Direct preference optimisation (arXiv 2305.18290) and the losses that followed it."""

    algorithm: Literal["dpo"]
    """Direct preference optimisation."""
    loss: AlignmentLoss = "sigmoid"
    """Shape of the loss; `simpo` and `orpo` need no reference, `ipo`, `sigmoid_norm`, `simpo` and `orpo` count per token; `kto`
    (arXiv 2402.01306) trains on single answers: those of data.feedback, or both sides of each pair of data.preferences."""
    beta: AboveZero = 0.1
    """Scale of the implicit reward, the pull to the reference (`simpo`: 2 to 2.5 in its paper); weight of the odds in `orpo`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels; `sigmoid` (conservative DPO) and `robust` only."""
    simpo_gamma: NonNegative | None = None
    """Margin, in units of the reward, that chosen should have over rejected; `simpo` only."""
    sft_weight: NonNegative = 0.0
    """Weight of the negative log-likelihood per token of the chosen response (RPO, arXiv 2404.19733); 0 = none."""
    desirable_weight: NonNegative = 1.0
    """Weight of the loss of desirable answers, λ_D; `kto` only. It should make up for unequal numbers: in all, desirable answers
    should weigh 1 to 4/3 times as much as undesirable ones."""
    undesirable_weight: NonNegative = 1.0
    """Weight of the loss of undesirable answers, λ_U; `kto` only."""
    learning_rate: Rate | None = None
    """Peak learning rate; null = by method and size of the model: LoRA 5e-5 at 100M parameters, 5e-6 from 7B on, in full 5e-7."""
    peft: Peft = LoRA(method="lora")
    """What is trained."""

    @property
    def unpaired(self) -> bool:
        """Whether it trains on single answers with a label."""
        return self.loss == "kto"

    @model_validator(mode="after")
    def _every_number_has_a_meaning(self) -> DPO:
        for name, losses in MEANS_SOMETHING_FOR.items():
            value, default = getattr(self, name), DPO.model_fields[name].default
            if value != default and self.loss not in losses:
                unset = "null" if default is None else f"{default:g}"
                raise refused(
                    where=f"alignment.{name}",
                    found=f"{value} with loss {self.loss}",
                    allowed=f"{unset}, or loss {', '.join(losses)}",
                    remedy=f"remove {name}, or choose another loss",
                )
        for name, (loss, remedy) in NEEDED_BY.items():
            if self.loss == loss and getattr(self, name) == DPO.model_fields[name].default:
                raise refused(
                    where=f"alignment.{name}",
                    found=f"nothing with loss {loss}",
                    allowed=f"a value, which {loss} needs",
                    remedy=remedy,
                )
        return self

    @model_validator(mode="after")
    def _batch_has_other_answers(self) -> DPO:
        """KTO estimates the divergence from the reference on answers to other prompts of the same step."""
        if self.unpaired and self.batch_size < 2:
            raise refused(
                where="alignment.batch_size",
                found=f"{self.batch_size} with loss kto",
                allowed="2 or more: the divergence is estimated on answers to other prompts of the step",
                remedy="raise batch_size; 8 or more makes the estimate steadier",
            )
        if self.unpaired and not self.desirable_weight + self.undesirable_weight:
            raise refused(
                where="alignment.desirable_weight",
                found="0, and undesirable_weight 0",
                allowed="at least one of them above 0",
                remedy="raise one: with both at 0 nothing is learned",
            )
        return self

    @model_validator(mode="after")
    def _starts_as_its_reference(self) -> DPO:
        """Dropout before an adapter that holds the main part of a weight changes the policy before the first step."""
        init, dropout = getattr(self.peft, "init", ""), getattr(self.peft, "dropout", 0.0)
        if init.startswith(("pissa", "olora")) and dropout:
            raise refused(
                where="alignment.peft.dropout",
                found=f"{dropout} with init {init}",
                allowed="0: it would drop a part of the policy itself",
                remedy="remove dropout, or choose init default",
            )
        return self


class NoAlignment(Frozen):
    """Stop after SFT."""

    algorithm: Literal["none"] = "none"
    """No alignment."""
