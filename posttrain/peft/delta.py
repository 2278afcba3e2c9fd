"""Load a bottleneck adapter, BitFit or last layers onto its base, with torch, transformers and safetensors alone.

This file imports nothing of the project, and an exported adapter has it beside it.

    model = load_delta(AutoModelForCausalLM.from_pretrained(BASE), "adapter")

The folder holds `delta.safetensors`, the trained tensors under the names that they have in the model, and `delta.json`: `config`
are flags of the model's config that the tensors need, `bottleneck` says where bottleneck adapters sit and what they compute (null
for the other methods), `tensors` names every tensor. BitFit and last layers leave a plain model that `save_pretrained` writes.

For a bottleneck adapter this is enough, where no file is to be checked and nothing is to be trained:

    import json
    from safetensors.torch import load_file
    from torch.nn import functional as F

    def load_bottleneck(model, folder):
        record, tensors = json.load(open(f"{folder}/delta.json"))["bottleneck"], load_file(f"{folder}/delta.safetensors")
        shape = record["shape"]
        for place in record["places"]:
            prefix = f"{place}.{shape['name']}."
            own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            def add(layer, inputs, output, own=own):
                hidden = inputs[0] if shape["parallel"] else output
                inner = getattr(F, shape["activation"])(F.linear(hidden, own["down.weight"], own["down.bias"]))
                return output + shape["scale"] * F.linear(inner, own["up.weight"], own["up.bias"])
            model.get_submodule(place).register_forward_hook(add)
        return model
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

TENSORS, RECORD = "delta.safetensors", "delta.json"
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def load_delta(model: Any, folder: str | Path) -> Any:
    """Put the tensors of `folder` into a model, in place.

    Raises:
        ValueError: when a tensor is missing, unexpected, or has no place of its shape in this model.
    """
    record, tensors = json.loads((Path(folder) / RECORD).read_text()), load_file(Path(folder) / TENSORS)
    if set(record["tensors"]) != tensors.keys():
        raise ValueError(f"{folder}: missing {sorted(set(record['tensors']) - tensors.keys())}, "
                         f"unexpected {sorted(tensors.keys() - set(record['tensors']))}")  # fmt: skip
    for flag, value in record["config"].items():
        setattr(model.config, flag, value)
    for place in (record.get("bottleneck") or {}).get("places", ()):
        add_bottleneck(model.get_submodule(place), **record["bottleneck"]["shape"])
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        old = layer._parameters[leaf]  # None where a linear layer has no bias yet
        if tensor.shape != (layer.weight.shape[:1] if old is None else old.shape):
            raise ValueError(f"{folder}: {name} has shape {tuple(tensor.shape)}, which has no place in this model")
        like = layer.weight if old is None else old
        if old is not None and leaf == "bias":  # the same parameter: in some models two modules hold it
            old.data = tensor.to(like.device, like.dtype)
            continue
        layer.register_parameter(leaf, nn.Parameter(tensor.to(like.device, like.dtype)))  # a new one: a tied head is untied
    return model


class Bottleneck(nn.Module):
    """`scale · (W_up f(W_down h + b_down) + b_up)` for hidden states h [..., width]; the up-projection starts at zero."""

    def __init__(self, width: int, size: int, activation: str, scale: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation, self.scale = ACTIVATIONS[activation](), scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The update of `hidden`, of its shape and type."""
        update: Tensor = self.up(self.activation(self.down(hidden.to(self.down.weight.dtype))))
        return self.scale * update.to(hidden.dtype)


def add_bottleneck(layer: nn.Module, width: int, size: int, activation: str, scale: float, parallel: bool, name: str) -> None:
    """Add an adapter to a layer: its output becomes y + adapter(y), or with `parallel` y + adapter(x).

    The layer itself stays where it is, and so do the names of its weights.
    """
    if hasattr(layer, name):
        raise ValueError(f"{type(layer).__name__} has a module {name} already: adapters are loaded in the order of training")
    device = next(layer.parameters()).device
    layer.add_module(name, Bottleneck(width, size, activation, scale).to(device))
    layer.register_forward_hook(functools.partial(_add, name=name, parallel=parallel))


def _add(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor, name: str, parallel: bool) -> Tensor:
    adapter: nn.Module = getattr(layer, name)
    return torch.add(output, adapter(inputs[0] if parallel else output))
