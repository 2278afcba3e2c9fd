"""Which device and arithmetic a recipe means on this machine."""

from __future__ import annotations

import torch

from schemas.errors import Refusal
from schemas.recipe import Compute


def resolve_device(compute: Compute) -> torch.device:
    """The device that `compute.device` means here."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("compute.device", "cuda, and no CUDA device is visible", "auto or cpu", "set compute.device=auto")
    wants_cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wants_cuda else "cpu")


def resolve_dtype(compute: Compute) -> torch.dtype:
    """The arithmetic that `compute.dtype` means here."""
    if compute.dtype == "auto":
        return torch.bfloat16 if resolve_device(compute).type == "cuda" else torch.float32
    return torch.float32 if compute.dtype == "float32" else torch.bfloat16
