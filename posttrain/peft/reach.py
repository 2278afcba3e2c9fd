"""Which parts of a model an adapter reaches: a mixture's experts, for example, are not linear layers: `all-linear` skips them."""

from __future__ import annotations

from typing import Any

from torch import nn

from posttrain.models import blocks


def reach_of(model: nn.Module) -> dict[str, Any]:
    """Modules with a peft adapter, modules without one, and the share of parameters in the latter.

    Modules go by the last part of their name; those without an adapter are sorted by size. Empty without such adapters, as
    for full fine-tuning and soft prompts.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = blocks.core(model)
    layers = {name: module for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer)}
    if not layers:
        return {}
    prefixes = tuple(f"{name}." for name in layers)
    with_one = {id(p) for module in layers.values() for p in module.get_base_layer().parameters()}
    beside: dict[str, int] = {}
    for name, parameter in inner.named_parameters():
        if id(parameter) not in with_one and not name.startswith(prefixes):
            module = name.rpartition(".")[0].rpartition(".")[2]
            beside[module] = beside.get(module, 0) + parameter.numel()
    reached = sum(p.numel() for p in inner.parameters() if id(p) in with_one)
    left_out = sum(beside.values())
    return {
        "reaches": sorted({name.rpartition(".")[2] for name in layers}),
        "leaves_out": sorted(beside, key=lambda module: -beside[module]),
        "left_out_share": round(left_out / (left_out + reached), 4),
    }
