"""Parallel bottleneck adapters as a wider feed-forward layer: a plain checkpoint of the base's architecture.

A gated feed-forward layer computes W_down (f(W_gate x) ⊙ W_up x). It computes the adapter s (U f(D x + d) + u) too when W_gate
gets the rows (D, d), W_up the rows (0, 1) and W_down the columns s U with bias s u. So f must be the adapter's activation, and
the architecture must provide for biases: Llama and its relatives do, by a flag of their config.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.peft.delta import Bottleneck

FLAG, WIDTH = "mlp_bias", "intermediate_size"
ACTIVATIONS = {"silu": nn.SiLU, "swish": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}
"""transformers' `hidden_act` → the adapter activation that computes the same."""


def foldable(model: Any) -> bool:
    """Whether every adapter in a transformers model is parallel to a feed-forward layer that can absorb it."""
    found = _adapters(model)
    activation = ACTIVATIONS.get(getattr(model.config, "hidden_act", ""))
    fits = hasattr(model.config, FLAG) and all(type(adapter.activation) is activation for _, _, adapter in found)
    return bool(found) and fits and all(_is_gated(layer) for layer, _, _ in found)


@torch.no_grad()
def fold(model: Any) -> None:
    """Move the adapters of a foldable model into its feed-forward layers, in place."""
    for layer, name, adapter in _adapters(model):
        _widen(layer, adapter)
        delattr(layer, name)
        for key, hook in list(layer._forward_hooks.items()):
            if isinstance(hook, functools.partial) and hook.keywords.get("name") == name:
                del layer._forward_hooks[key]
    setattr(model.config, FLAG, True)
    setattr(model.config, WIDTH, layer.gate_proj.out_features)


def _adapters(model: nn.Module) -> list[tuple[Any, str, Bottleneck]]:
    """Layers with an adapter below them, its name there, and the adapter."""
    named = [(*name.rpartition("."), module) for name, module in model.named_modules() if isinstance(module, Bottleneck)]
    return [(model.get_submodule(path), name, adapter) for path, _, name, adapter in named]


def _is_gated(layer: Any) -> bool:
    """Where `parallel` places an adapter; a sequential one sits on the last layer. Quantised layers have another type."""
    return all(type(getattr(layer, name, None)) is nn.Linear for name in ("gate_proj", "up_proj", "down_proj"))


def _widen(layer: Any, adapter: Bottleneck) -> None:
    gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
    ones = torch.ones_like(adapter.down.bias)
    _set(gate, torch.cat([gate.weight, adapter.down.weight]), torch.cat([_bias(gate), adapter.down.bias]))
    _set(up, torch.cat([up.weight, torch.zeros_like(adapter.down.weight)]), torch.cat([_bias(up), ones]))
    wider = torch.cat([down.weight, adapter.scale * adapter.up.weight], 1)
    _set(down, wider, _bias(down) + adapter.scale * adapter.up.bias)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    layer.out_features, layer.in_features = weight.shape
