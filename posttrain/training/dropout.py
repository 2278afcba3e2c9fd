"""Dropout of a whole model: switched off where a policy is compared with itself, or set to what a recipe asks for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

RATES = ("dropout", "pdrop")  # parts of the names of numbers that transformers' modules pass to dropout
LAYERS = "layerdrop"  # the rate at which whole blocks are left out
NOISE = "jitter_noise"  # of a mixture's router: its input is scaled at random while training (arXiv 2101.03961)


def without_dropout(model: nn.Module) -> None:
    """Switch dropout and a router's noise off for good: a policy must score an answer alike while it trains and while it is
    the reference, and the probability ratio of PPO's first pass must be 1."""
    set_dropout(model, 0.0)


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Drop at this rate wherever the model has a place for dropout, adapters in it included; None changes nothing.

    Whole blocks are left out at the checkpoint's own rate, and at 0 never. The model's config keeps what it says.
    """
    if rate is None:
        return
    own = getattr(model, "config", None)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = rate
        _set_rates(module, rate)
        config = vars(module).get("config")
        if config is not None and config is not own:  # ProphetNet's decoder reads its own copy in every pass
            _set_rates(config, rate)


def _set_rates(holder: Any, rate: float) -> None:
    """Change the numbers by which `holder` drops."""
    for name, value in list(vars(holder).items()):
        if not isinstance(value, float):
            continue
        if name.endswith(LAYERS) or name == NOISE:
            setattr(holder, name, value if rate else 0.0)
        elif any(part in name for part in RATES):
            setattr(holder, name, rate)
