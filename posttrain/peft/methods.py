"""The table of methods: what each one trains, supports and costs. Validation, scoring and export read it.

Importing this file imports neither torch nor peft, so that a recipe can be checked at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from schemas.errors import Refusal
from schemas.peft import Peft

DECODER, ENCODER_DECODER, ENCODER = "decoder", "encoder_decoder", "encoder"
GENERATORS = frozenset({DECODER, ENCODER_DECODER})
ANY = GENERATORS | {ENCODER}


@dataclass(frozen=True)
class Request:
    """What a method needs in addition to the model."""

    spec: Peft
    seed: int
    field: str
    """The recipe's section, for refusals: `sft.peft`."""
    tokenizer: Any = None
    """Only read by prompt tuning from a text."""
    new_tokens: tuple[int, ...] = ()
    """Tokens whose embeddings nothing has trained yet; only read by methods with `embeds`."""

    def refused(self, *, part: str, found: str, allowed: str, remedy: str) -> Refusal:
        """A refusal of one field of the section."""
        return Refusal(where=f"{self.field}.{part}", found=found, allowed=allowed, remedy=remedy)


@dataclass
class Applied:
    """A model with a method applied: only the method's parameters are trainable."""

    model: Any
    """The peft model of a method that peft has, else the model that was given."""
    delta: dict[str, Any] = field(default_factory=dict)
    """For methods that peft lacks: what `posttrain/peft/delta.py` needs beside the tensors to load them."""


class AroundSteps(Protocol):
    """Hooks of a method around each optimizer step."""

    def before_step(self, model: Any) -> None:
        """Called when the gradients are complete."""

    def after_step(self, model: Any, optimizer: Any, step: int, steps: int) -> None:
        """Called when the optimizer has used them, in the finished step `step` of `steps`."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    family: str
    """Of the taxonomy of arXiv 2303.15647: reparametrization, adapters, soft prompts, scaling, selective; `none` trains all."""
    made_by: str
    """`module:function` under posttrain.peft that takes (model, Request) and returns Applied."""
    rate: float = 1.0
    """Suitable learning rate as a multiple of LoRA's: methods with few independent parameters need larger steps."""
    of_base: Literal["none", "small", "matrices"] = "none"
    """What it trains of the base's own tensors: none, small ones (biases, norms), or matrices. A copy cannot share these."""
    from_peft: bool = True
    """Saved in peft's own format, else as a delta that `posttrain/peft/delta.py` loads."""
    packing: bool = True
    """Exact when several sequences share a row."""
    gradient_checkpointing: bool = True
    """Activations can be recomputed in the backward pass."""
    merges: bool = True
    """The trained model always becomes a plain checkpoint of the base's architecture; `fold.py` does it for some bottlenecks."""
    architectures: frozenset[str] = ANY
    """Kinds of models that it works on."""
    conv1d: bool = True
    """Works on the transposed linear layers of GPT-2."""
    starts_as_base: bool = True
    """Computes what the base computes before the first step (to rounding)."""
    quantized: bool = False
    """Trains on a base in 4 or 8 bits."""
    vllm: bool = False
    """vLLM serves the adapter without a merge; not with `use_dora`."""
    embeds: frozenset[str] = frozenset()
    """Kinds of models whose embeddings of new tokens it trains."""
    around_steps: str | None = None
    """`module:class` under posttrain.peft, made of the method's settings, that takes part in each optimizer step."""

    def apply(self, model: Any, request: Request) -> Applied:
        """Apply the method to a transformers model with new parameters."""
        make: Callable[[Any, Request], Applied] = _load(self.made_by)
        return make(model, request)

    def steps(self, spec: Peft) -> AroundSteps | None:
        """Hooks around each optimizer step; None for most methods."""
        hook: AroundSteps | None = _load(self.around_steps)(spec) if self.around_steps else None
        return hook


def _load(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(f"posttrain.peft.{module}"), name)


_REPARAMETRIZATION, _SOFT = "reparametrization", "soft prompts"

METHODS: dict[str, Method] = {
    "full": Method("none", "selective:full", of_base="matrices", from_peft=False, embeds=ANY),
    "lora": Method(_REPARAMETRIZATION, "hf_peft:lora", quantized=True, vllm=True, embeds=frozenset({DECODER})),
    "adalora": Method(_REPARAMETRIZATION, "hf_peft:tuner", 10, around_steps="adalora:RankBudget"),
    "vera": Method(_REPARAMETRIZATION, "hf_peft:tuner", 30),
    "oft": Method(_REPARAMETRIZATION, "hf_peft:oft", conv1d=False),
    "loha": Method(_REPARAMETRIZATION, "hf_peft:tuner", 5, conv1d=False),
    "lokr": Method(_REPARAMETRIZATION, "hf_peft:tuner", 10, conv1d=False),
    "bottleneck": Method("adapters", "bottleneck:bottleneck", 5, from_peft=False, merges=False),
    "prompt_tuning": Method(
        _SOFT, "soft_prompts:prompt_tuning", 10,
        packing=False, merges=False, architectures=GENERATORS, starts_as_base=False,
    ),
    "prefix_tuning": Method(
        _SOFT, "soft_prompts:prefix_tuning", 10,
        packing=False, gradient_checkpointing=False, merges=False, architectures=GENERATORS, starts_as_base=False,
    ),
    "p_tuning": Method(
        _SOFT, "soft_prompts:p_tuning", 3,
        packing=False, merges=False, architectures=GENERATORS, starts_as_base=False,
    ),
    "ia3": Method("scaling", "hf_peft:ia3", 30),
    "ln_tuning": Method("selective", "hf_peft:ln_tuning", 50, "small"),
    "bitfit": Method("selective", "bitfit:bitfit", 20, "small", from_peft=False),
    "last_layers": Method("selective", "selective:last_layers", of_base="matrices", from_peft=False),
}  # fmt: skip
"""By `peft.method`."""
