"""Frozen weights in the half precision that the products on them run in.

Autocast rounds a weight at every product and keeps the copy until the backward pass. Rounded once, the numbers are the same, the
passes shorter and the weights half as large. Embeddings, norms and the output head stay as they are: they are not products, or
are computed in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from posttrain.peft.blocks import all_linear, core
from posttrain.peft.methods import METHODS
from schemas.peft import Peft

HALF = (torch.bfloat16, torch.float16)


def hold_frozen(model: Any, peft: Peft, dtype: torch.dtype) -> None:
    """Round the frozen linear layers of a model that an adapter trains on, where the method reads them in products alone."""
    if dtype in HALF and METHODS[peft.method].quantized and not getattr(peft, "use_dora", False):
        _round(model, dtype, frozen=True)


def hold_all(model: Any, dtype: torch.dtype) -> None:
    """Round every linear layer of a model that is not trained."""
    if dtype in HALF:
        _round(model, dtype, frozen=False)


def _round(model: Any, dtype: torch.dtype, frozen: bool) -> None:
    for layer in all_linear(core(model)).values():
        own = list(layer.parameters(recurse=False)) if type(layer) is nn.Linear else []
        for parameter in own:
            if parameter.dtype == torch.float32 and not (frozen and parameter.requires_grad):
                parameter.data = parameter.data.to(dtype)
