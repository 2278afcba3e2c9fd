"""Which trainable tensors weight decay shrinks: decided by what a tensor is, not by its number of dimensions.

Decay pulls a weight to 0, which keeps a matrix small. It takes a factor whose neutral value is 1 out of the model instead, and an
offset that is added to activations or attention scores has no size to be kept small. Libraries store both as vectors, but also as
[n, 1], [1, n], or an embedding of n rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from posttrain.peft.wrap import trainable_state

# Parameters of peft that scale dimensions: IA³'s factors [n, 1] or [1, n], AdaLoRA's singular values [r, 1], VeRA's, DoRA's.
FACTORS = {"ia3_l", "lora_E", "vera_lambda_b", "vera_lambda_d", "lora_magnitude_vector"}


@dataclass(frozen=True)
class Named:
    """A tensor, the path to it and the module that owns it."""

    path: tuple[str, ...]
    tensor: Tensor
    owner: nn.Module


# What is not decayed, with the test that finds it. All else is: matrices of linear layers (also LoRA's, adapters', and a score
# head's of one row), experts, convolutions, embeddings of tokens, positions and soft prompts.
NOT_DECAYED: dict[str, Callable[[Named], bool]] = {
    "vector": lambda of: of.tensor.ndim < 2,
    "bias": lambda of: any(
        name.endswith("bias") for name in of.path[-2:]
    ),  # T5's relative_attention_bias.weight [buckets, heads]
    "normalisation": lambda of: "norm" in type(of.owner).__name__.lower(),
    "factor": lambda of: not FACTORS.isdisjoint(of.path),
    "marked by its model": lambda of: getattr(of.tensor, "_no_weight_decay", False),  # the A and D of state-space models
}


def kind(of: Named) -> str | None:
    """The first row of `NOT_DECAYED` that a tensor falls under; None: it is decayed."""
    return next((name for name, holds in NOT_DECAYED.items() if holds(of)), None)


def by_decay(model: nn.Module, holds: Callable[[str], bool] = lambda name: True) -> tuple[list[Tensor], list[Tensor]]:
    """The trainable tensors that are decayed, and the others, of those whose name `holds` accepts."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, tensor in ((name, tensor) for name, tensor in trainable_state(model).items() if holds(name)):
        path = tuple(name.split("."))
        parts[kind(Named(path, tensor, model.get_submodule(".".join(path[:-1])))) is not None].append(tensor)
    return parts
