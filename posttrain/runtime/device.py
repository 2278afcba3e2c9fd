"""Which device and arithmetic a recipe means on this machine. torch is imported only where it must be asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import Refusal
from schemas.recipe import Compute

if TYPE_CHECKING:
    import torch

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # names in torch.cpu.get_capabilities(); the last one is Arm's
WORTHWHILE = 50_000_000  # parameters from which on products take most of the time, and so bfloat16 gains
NVIDIA_DRIVER = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version")


def resolve_device(compute: Compute) -> torch.device:
    """The device that `compute.device` means here; of several CUDA devices the current one.

    Raises:
        Refusal: when it is not there, or not as often as there are processes.
    """
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise Refusal(
            where="compute.device",
            found="cuda, and no CUDA device is visible",
            allowed="auto or cpu",
            remedy="set compute.device=auto",
        )
    device = torch.device("cuda" if _wants_cuda(compute) else "cpu")
    if device.type == "cuda" and compute.num_processes > torch.cuda.device_count():
        raise Refusal(
            where="compute.num_processes",
            found=f"{compute.num_processes}, and {torch.cuda.device_count()} CUDA devices",
            allowed="at most one process per device",
            remedy="lower compute.num_processes",
        )
    return device


def resolve_dtype(compute: Compute) -> torch.dtype:
    """The arithmetic that `compute.dtype` means here.

    Raises:
        Refusal: for half precision on a CPU that does not gain by it.
    """
    import torch

    name = dtype_name(compute)
    if name == "float16" and not _wants_cuda(compute):
        raise Refusal(
            where="compute.dtype",
            found="float16, and no CUDA device is visible",
            allowed="float32, or bfloat16 where the chip has it",
            remedy="set compute.dtype=auto",
        )
    if name == "bfloat16" and not (_wants_cuda(compute) or _cpu_has_bfloat16()):
        raise Refusal(
            where="compute.dtype",
            found="bfloat16 on a CPU without instructions for it, where it is slower than float32",
            allowed=f"float32 here; bfloat16 on CUDA and on chips with one of {', '.join(CPU_BFLOAT16)}",
            remedy="set compute.dtype=auto",
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def dtype_name(compute: Compute) -> str:
    """`float32`, `bfloat16` or `float16`; `auto` is bfloat16 on CUDA."""
    if compute.dtype != "auto":
        return compute.dtype
    return "bfloat16" if _wants_cuda(compute) else "float32"


def bfloat16_hint(compute: Compute, parameters: int) -> str | None:
    """That this CPU could train in bfloat16, where a recipe leaves it in float32 and the model is large enough to gain."""
    if parameters < WORTHWHILE or dtype_name(compute) != "float32" or resolve_device(compute).type != "cpu":
        return None
    if not _cpu_has_bfloat16():
        return None
    return "compute.dtype: this CPU computes in bfloat16 as well, in which a step takes about two thirds of the time"


def _wants_cuda(compute: Compute) -> bool:
    if compute.device == "cpu" or (sys.platform == "linux" and not any(map(_exists, NVIDIA_DRIVER))):
        return compute.device == "cuda"
    import torch  # three seconds, which a run that reuses everything can save

    return compute.device == "cuda" or torch.cuda.is_available()


def _cpu_has_bfloat16() -> bool:
    import torch

    return any(map(torch.cpu.get_capabilities().get, CPU_BFLOAT16))


def _exists(path: str) -> bool:
    return Path(path).exists()
