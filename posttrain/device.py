"""Which device and arithmetic a recipe means on this machine. torch is imported only where it must be asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import Refusal
from schemas.recipe import Compute

if TYPE_CHECKING:
    import torch

NVIDIA_DRIVER = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")


def resolve_device(compute: Compute) -> torch.device:
    """The device that `compute.device` means here."""
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise Refusal("compute.device", "cuda, and no CUDA device is visible", "auto or cpu", "set compute.device=auto")
    return torch.device("cuda" if _wants_cuda(compute) else "cpu")


def resolve_dtype(compute: Compute) -> torch.dtype:
    """The arithmetic that `compute.dtype` means here."""
    import torch

    return torch.bfloat16 if dtype_name(compute) == "bfloat16" else torch.float32


def dtype_name(compute: Compute) -> str:
    """`float32` or `bfloat16`; `auto` is bfloat16 on CUDA."""
    if compute.dtype != "auto":
        return compute.dtype
    return "bfloat16" if _wants_cuda(compute) else "float32"


def _wants_cuda(compute: Compute) -> bool:
    if compute.device == "cpu" or (sys.platform == "linux" and not any(map(_exists, NVIDIA_DRIVER))):
        return compute.device == "cuda"
    import torch  # three seconds, which a run that reuses everything can save

    return compute.device == "cuda" or torch.cuda.is_available()


def _exists(path: str) -> bool:
    return Path(path).exists()
