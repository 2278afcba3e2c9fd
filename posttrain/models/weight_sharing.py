"""Two models on one set of weights: a policy, and a critic or reward model with adapters of its own."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def shared_copy(model: Model) -> Model:
    """A copy with modules, buffers and parameter objects of its own, whose parameters lie in the storage of the given model's.

    Only modules added to the copy use new memory. Neither model sees the other's adapters, nor which parameters it trains; both
    see values that are written in place. Tied parameters stay tied. Gradients are not copied.
    """
    alike: dict[int, nn.Parameter] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, alike)


def keep_apart(copied: nn.Module, trained: nn.Module) -> None:
    """Give a shared copy its own values of what the other model trains in place; what is frozen in both stays shared."""
    moving = {parameter.data_ptr() for parameter in trained.parameters() if parameter.requires_grad}
    for parameter in copied.parameters():
        if parameter.data_ptr() in moving:
            parameter.data = parameter.data.clone()
