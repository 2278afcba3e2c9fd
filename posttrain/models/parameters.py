"""How many parameters a model has, and how many of them are trained; a tied one counts once."""

from __future__ import annotations

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """All parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def trainable_count(model: nn.Module) -> int:
    """The parameters that a training stage changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
