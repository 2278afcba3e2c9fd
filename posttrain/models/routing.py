"""A mixture of experts whose config asks for its router's logits: the loss that balances the experts, and decoding without it.

In transformers `output_router_logits` stands for that loss, which the model adds to its own (arXiv 2101.03961, equations 4 to 6).
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

ASKED = "output_router_logits"


def without_routing(model: Any) -> dict[str, bool]:
    """Arguments for a pass that needs no loss: while decoding the mask is longer than what the router sees, an error."""
    return {ASKED: False} if getattr(model.config, ASKED, False) else {}


def balances(model: Any) -> bool:
    """Whether this pass trains a model whose config asks for the loss."""
    return bool(getattr(model.config, ASKED, False) and model.training and torch.is_grad_enabled())


def with_routing(model: Any) -> dict[str, bool]:
    """Arguments for a pass through the body of a model, of which `balance` then reads the router's logits."""
    return {ASKED: balances(model)} if getattr(model.config, ASKED, False) else {}


def balance(model: Any, out: Any, attended: Tensor) -> Tensor | None:
    """The auxiliary loss of a pass, times the config's coefficient; None where it is not asked for, or not a training pass.

    Args:
        model: a transformers language model.
        out: what its body returned.
        attended: [R, C], which tokens are no padding.
    """
    if not balances(model) or not getattr(out, "router_logits", None):
        return None
    loss = sys.modules[type(model).__module__].load_balancing_loss_func  # each family has its own, for its form of logits
    value: Tensor = loss(out.router_logits, model.num_experts, model.num_experts_per_tok, attended)
    weight: float = model.router_aux_loss_coef
    return weight * value
