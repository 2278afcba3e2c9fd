"""Whether a method can work on a model in a stage, decided before weights are loaded.

`posttrain check` and the preflight make one call: `check_recipe(recipe, config)`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.peft.methods import METHODS, Method
from posttrain.peft.stacking import OTHER, STAYS, stack_problem
from schemas.errors import Refusal
from schemas.peft import LoRA, Peft
from schemas.recipe import STAGES, Recipe


@dataclass(frozen=True)
class MethodUse:
    """A method with everything in its surroundings that can rule it out."""

    spec: Peft
    field: str
    """Name of the recipe's section, for refusals: `sft.peft`."""
    config: Any
    """The model's transformers config."""
    below: tuple[str, ...] = ()
    """Methods of earlier stages whose adapters stay below; `unmerged` stands for one that should have merged but did not."""
    max_length: int = 0
    """Longest sequence of the stage in tokens."""
    gradient_checkpointing: bool = False
    quantization: str | None = None
    """`nf4` or `int8`: how the base is held."""
    device: str = "cpu"
    virtual_below: int = 0
    """Virtual tokens of the stages before."""
    neftune_alpha: float | None = None
    """Noise on the embeddings of the stage."""

    @property
    def method(self) -> Method:
        """The method's row of the table."""
        return METHODS[self.spec.method]

    def refused(self, *, part: str, found: str, allowed: str, remedy: str) -> Refusal:
        """A refusal of one field of the section."""
        return Refusal(where=f"{self.field}.{part}", found=found, allowed=allowed, remedy=remedy)


def check_recipe(
    recipe: Recipe, config: Any, device: str = "cpu", below: tuple[str, ...] = (), virtual_tokens: int = 0
) -> None:  # fmt: skip
    """Refuse a recipe whose stages cannot be trained with their methods on this model.

    Args:
        below: methods of the adapters that came with the model unmerged.
        virtual_tokens: theirs.

    Raises:
        Refusal: for the first one that cannot.
    """
    if below and recipe.pretrain is not None:
        raise Refusal(
            where="pretrain",
            found=f"a model with an adapter that cannot be merged ({', '.join(below)})",
            allowed="pretrain null",
            remedy="remove pretrain, which would train every weight under the adapter, or choose another model",
        )
    for name in (name for name, row in STAGES.items() if row.policy):
        stage, section = recipe.section(name), STAGES[name].section
        spec: Peft | None = getattr(stage, "peft", None)
        if spec is None:
            continue
        length, recomputed = getattr(stage, "max_length", 0), getattr(stage, "gradient_checkpointing", False)
        use = MethodUse(spec, f"{section}.peft", config, below, length, recomputed, recipe.quantization, device, virtual_tokens,
                    getattr(stage, "neftune_alpha", None))  # fmt: skip
        if refusal := check_method(use):
            raise refusal
        virtual_tokens += getattr(spec, "virtual_tokens", 0)
        below = () if spec.method == "full" else (*below, spec.method)


def check_method(use: MethodUse) -> Refusal | None:
    """Why a method cannot work as planned, or None.

    Conditions that depend on the model's layers are tested by applying the method to a model on the meta device.
    """
    return next((refusal for rule in RULES if (refusal := rule(use)) is not None), None)


def _checkpointing(use: MethodUse) -> Refusal | None:
    if not use.gradient_checkpointing or use.method.gradient_checkpointing:
        return None
    found = f"{use.spec.method} with gradient checkpointing, which drops the cache that holds the prefix"
    return use.refused(
        part="method",
        found=found,
        allowed="prompt_tuning, p_tuning or a method inside the layers, or no gradient checkpointing",
        remedy="turn gradient checkpointing off, or choose another method",
    )


def _noise(use: MethodUse) -> Refusal | None:
    methods = [method for method in (*use.below, use.spec.method) if method != OTHER]
    soft = [method for method in methods if METHODS[method].family == "soft prompts"]
    if use.neftune_alpha is None or not soft:
        return None
    found = f"{use.neftune_alpha} with {soft[0]}, whose layout has no place for noise"
    return Refusal(
        where=f"{use.field.partition('.')[0]}.neftune_alpha", found=found, allowed="null", remedy="remove neftune_alpha"
    )


def _quantization(use: MethodUse) -> Refusal | None:
    from transformers.pytorch_utils import Conv1D

    from posttrain.models.blocks import linear_layers

    if use.quantization is None:
        return None
    base = f"a base in {use.quantization}"
    if stay := [method for method in use.below if not _merges(method)]:
        found = f"{base} below an adapter that cannot be merged into it ({', '.join(stay)})"
        return Refusal(
            where="model.quantization",
            found=found,
            allowed="null, or earlier stages with methods that merge",
            remedy="set model.quantization=null",
        )
    if not use.method.quantized:
        able = ", ".join(name for name, method in METHODS.items() if method.quantized)
        return use.refused(
            part="method", found=f"{use.spec.method} on {base}", allowed=able, remedy="choose lora, or model.quantization null"
        )
    if isinstance(use.spec, LoRA) and use.spec.init not in ("default", "gaussian", "orthogonal"):
        found = f"{use.spec.init} on {base}: the init decomposes weights that are not there in full precision"
        return use.refused(part="init", found=found, allowed="default, gaussian, orthogonal", remedy="choose another init")
    if use.quantization == "nf4" and use.device == "cpu":
        found = "nf4 on a CPU: evaluation packs the weights for a kernel without a backward pass, and gradients go wrong after it"
        return use.refused(
            part="method",
            found=found,
            allowed="int8 or no quantisation on a CPU, nf4 on CUDA",
            remedy="set model.quantization=int8",
        )
    layers = linear_layers(without_numbers(use.config)).values()
    if use.quantization == "int8" and any(isinstance(layer, Conv1D) for layer in layers):
        found = f"int8 with a {use.config.model_type} model, whose linear layers are stored transposed: none would be quantised"
        return Refusal(
            where="model.quantization", found=found, allowed="null, or nf4 on CUDA", remedy="set model.quantization=null"
        )
    return None


def _below(use: MethodUse) -> Refusal | None:
    families = {OTHER if method == OTHER else METHODS[method].family for method in use.below if not _merges(method)}
    return stack_problem(use.spec, families & STAYS.keys(), use.field)


def _merges(method: str) -> bool:
    return method != OTHER and METHODS[method].merges


def _context(use: MethodUse) -> Refusal | None:
    """Virtual tokens take up positions, and a model with learned positions has a fixed number of them."""
    from posttrain.models.architectures import longest_sequence

    virtual = getattr(use.spec, "virtual_tokens", 0)
    longest = longest_sequence(use.config)
    if virtual + use.virtual_below + use.max_length <= longest or not virtual + use.virtual_below:
        return None
    if use.virtual_below:
        found = f"{use.max_length} after {use.virtual_below} virtual tokens, in a model of {longest} positions"
        where = f"{use.field.partition('.')[0]}.max_length"
        return Refusal(where=where, found=found, allowed=f"at most {max(0, longest - use.virtual_below)}", remedy="lower it")
    found = f"{virtual} before sequences of up to {use.max_length} tokens, in a model of {longest} positions"
    return use.refused(
        part="virtual_tokens",
        found=found,
        allowed=f"at most {max(0, longest - use.max_length)}",
        remedy="lower it, or lower max_length",
    )


def _layers(use: MethodUse) -> Refusal | None:
    from posttrain.peft.wrap import wrap

    try:
        wrap(without_numbers(use.config), use.spec, 0, use.field)
    except Refusal as refusal:
        return refusal
    return None


RULES: tuple[Callable[[MethodUse], Refusal | None], ...] = (
    _checkpointing,
    _noise,
    _quantization,
    _below,
    _context,
    _layers,
)


def without_numbers(config: Any) -> Any:
    """A model of this config on the meta device: its layers have shapes and nothing else."""
    import torch
    from transformers import AutoModel

    from posttrain.models.architectures import auto_class
    from posttrain.models.blocks import architecture

    kind = AutoModel if architecture(config) == "encoder" else auto_class(config)
    with torch.device("meta"):
        return kind.from_config(copy.deepcopy(config))  # a method may set flags in it
