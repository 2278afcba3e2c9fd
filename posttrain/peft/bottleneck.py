"""Add bottleneck adapters to a model for training; `delta.py` holds what they compute."""

from __future__ import annotations

from typing import Any

from torch import nn

from posttrain.models import blocks
from posttrain.peft.delta import Bottleneck, add_bottleneck
from posttrain.peft.methods import Applied, Request


def bottleneck(model: Any, request: Request) -> Applied:
    """Add adapters to every block and train only them.

    Raises:
        Refusal: when the layers of a block are not recognised; an adapter in some blocks only would be another method.
    """
    spec: Any = request.spec
    places = _places(model, spec.variant)
    if not places:
        kind = f"bottleneck with variant {spec.variant} on a {model.config.model_type} model"
        raise request.refused(
            part="method",
            found=f"{kind}: layers of unknown names in some block",
            allowed="models like Llama, Mistral, Qwen, Gemma, Phi, GPT-2 and T5; like OPT and BERT, but not parallel",
            remedy="choose lora, or another variant",
        )
    model.requires_grad_(False)
    widths = {blocks.width_out(layer) for layer in blocks.feed_forward_outputs(model).values()}
    width = max(widths)
    shape = {"width": width, "size": max(1, width // spec.reduction_factor), "activation": spec.activation, "scale": spec.scale,
             "parallel": spec.variant == "parallel", "name": free_name(model)}  # fmt: skip
    for place in places:
        add_bottleneck(model.get_submodule(place), **shape)
    return Applied(model, {"config": {}, "bottleneck": {"places": places, "shape": shape}})


def _places(model: Any, variant: str) -> list[str]:
    """Names of the modules that get an adapter; empty when a block lacks one."""
    forward, attention = list(blocks.feed_forward_outputs(model)), list(blocks.attention_outputs(model))
    if variant == "parallel":
        forward = [name.rpartition(".")[0] for name in forward if blocks.ends_with(name.rpartition(".")[0], blocks.FEED_FORWARDS)]
    if any("expert" in name for name in forward):  # one expert's output is a part of the layer's
        return []
    kinds = [forward, attention] if variant == "houlsby" else [forward]
    every = [f"{stack}.{index}." for stack, layers in blocks.stacks(model) for index in range(len(layers))]
    complete = every and all(any(name.startswith(block) for name in kind) for kind in kinds for block in every)
    return sorted(name for kind in kinds for name in kind) if complete else []


def free_name(model: nn.Module) -> str:
    """Name of a new adapter's modules: those below it in a stack of adapters keep theirs."""
    taken = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Bottleneck)}
    return f"{blocks.BOTTLENECK}{len(taken) or ''}"
