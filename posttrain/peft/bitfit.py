"""BitFit: every bias and nothing else (arXiv 2106.10199).

Llama and its relatives have no biases, so peft's `bias="all"` silently trains nothing. Many of them provide
for biases in their config: such a model is given biases of zero, which change nothing until they are trained, and the flags are
set, so that it is saved as a checkpoint that transformers loads by itself.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from posttrain.models import blocks
from posttrain.peft.methods import Applied, Request

FLAGS = ("attention_bias", "mlp_bias", "use_bias", "bias", "use_qkv_bias")


def bitfit(model: Any, request: Request) -> Applied:
    """Train every bias of the model.

    Raises:
        Refusal: when it has no bias and none may or can be added.
    """
    spec: Any = request.spec
    flags = {} if _biases(model) else _graft(model) if spec.graft else {}
    found = _biases(model)
    if not found:
        why = "and its architecture provides for none" if spec.graft else "and graft is false"
        allowed = "a model with biases, or one whose config has " + " or ".join(FLAGS[:2])
        remedy = "choose ln_tuning, ia3 or lora" if spec.graft else f"set {request.field}.graft=true"
        raise request.refused(
            part="method",
            found=f"bitfit, and this {model.config.model_type} model has no bias, {why}",
            allowed=allowed,
            remedy=remedy,
        )
    model.requires_grad_(False)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return Applied(model, {"config": flags})


def _biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias by name, those of attached adapters left out."""
    return {name: p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias" and not blocks.attached(name)}


def _graft(model: Any) -> dict[str, Any]:
    """Add the biases that the architecture would have with its flags set; returns the flags.

    A second model of the same class with the flags set, which holds no numbers, says where: the result is exactly that model.
    """
    flags: dict[str, Any] = {flag: True for flag in FLAGS if getattr(model.config, flag, None) is False}
    config = copy.deepcopy(model.config)
    for flag in flags:
        setattr(config, flag, True)
    with torch.device("meta"):
        wanted = {name: p.shape for name, p in type(model)(config).named_parameters()}
    own = {name for name, _ in model.named_parameters() if not blocks.attached(name)}
    new = wanted.keys() - own
    if own - wanted.keys() or any(name.rpartition(".")[2] != "bias" for name in new):
        return {}  # a flag of this name means something else here
    for name in new:
        layer = model.get_submodule(name.rpartition(".")[0])
        layer.bias = nn.Parameter(torch.zeros(wanted[name], dtype=layer.weight.dtype, device=layer.weight.device))
    for flag in flags:
        setattr(model.config, flag, True)
    return flags
