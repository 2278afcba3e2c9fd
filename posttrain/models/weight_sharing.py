"""Two models on one set of weights: a policy, and what judges it with adapters of its own."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def twin(model: Model) -> Model:
    """A model with modules, buffers and parameter objects of its own, whose parameters lie in the storage of the given one's.

    Memory is taken for what is put on the twin alone. Adapters in either, and which parameters are trained, are not seen by the
    other; values written in place are. Tied parameters stay tied. Gradients are not taken over.
    """
    alike: dict[int, nn.Parameter] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, alike)


def keep_apart(twin: nn.Module, trained: nn.Module) -> None:
    """Give a twin copies of the values that the other model trains in place; what is frozen in both stays shared."""
    moving = {parameter.data_ptr() for parameter in trained.parameters() if parameter.requires_grad}
    for parameter in twin.parameters():
        if parameter.data_ptr() in moving:
            parameter.data = parameter.data.clone()
