"""Weights that are not finite are found when they are loaded: training would blame its rows, after hours of other stages."""

from __future__ import annotations

import torch
from torch import nn

from schemas.errors import Refusal


@torch.no_grad()
def refuse_not_finite(model: nn.Module, where: str) -> None:
    """Look at every parameter once.

    Raises:
        Refusal: when one holds NaN or infinity; names the first and counts its values.
    """
    wrong = [(name, parameter) for name, parameter in model.named_parameters() if not _is_finite(parameter)]
    if wrong:
        name, parameter = wrong[0]
        count = int((~parameter.isfinite()).sum())
        found = f"{count} value that is" if count == 1 else f"{count} values that are"
        more = f", and others in {len(wrong) - 1} more tensors" if wrong[1:] else ""
        raise Refusal(
            where=where,
            found=f"{found} not finite in {name}{more}",
            allowed="finite weights",
            remedy="take a sound copy of the checkpoint: it cannot be trained or evaluated",
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """By the extremes, which need no memory of the size of the tensor; NaN is both of them."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))
