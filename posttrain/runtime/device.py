"""Which device and arithmetic a recipe means on this machine. torch is imported only where it must be asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import Refusal
from schemas.recipe import Compute, Recipe

if TYPE_CHECKING:
    import torch

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # names in torch.cpu.get_capabilities(); the last one is Arm's
WORTHWHILE = 50_000_000  # parameters from which on products take most of the time, and so bfloat16 gains
PRODUCT = 384  # rows and columns of the matrices by which the gain is measured
NOISE = 0.2  # by which two measurements of a product may differ
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


def trains_elsewhere(recipe: Recipe) -> bool:
    """Whether the recipe's CUDA devices are those of a work pool, and this machine has none."""
    import torch

    return recipe.placement == "deployed" and recipe.compute.device == "cuda" and not torch.cuda.is_available()


def device_of(recipe: Recipe) -> torch.device:
    """The device that the recipe's stages train on, here or on a work pool.

    Raises:
        Refusal: as `resolve_device`.
    """
    import torch

    return torch.device("cuda") if trains_elsewhere(recipe) else resolve_device(recipe.compute)


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


def bfloat16_hint(compute: Compute, parameters: int, gain: Callable[[], float] | None = None) -> str | None:
    """What `compute.dtype` would be faster on this CPU, for a model that is large enough to gain by it.

    `gain` measures how many times as fast as in float32 a product is in bfloat16. Instructions for it do not tell: a Xeon with
    AVX512-BF16 and without AMX took twice the time of float32 for each.
    """
    name = dtype_name(compute)
    if parameters < WORTHWHILE or name == "float16" or _wants_cuda(compute) or not _cpu_has_bfloat16():
        return None
    times = (gain or bfloat16_gain)()
    if name == "float32" and times > 1 + NOISE:
        return f"compute.dtype: this CPU computes products {times:.1f} times as fast in bfloat16 as in float32"
    if name == "bfloat16" and 1 / times > 1 + NOISE:
        return f"compute.dtype: products in bfloat16 take {1 / times:.1f} times as long as in float32 on this CPU: use float32"
    return None


def bfloat16_gain() -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in bfloat16, by processor time."""
    import torch

    from posttrain.runtime.cpu_products import fast_cpu_products

    fast_cpu_products()

    def seconds(dtype: torch.dtype) -> float:
        left, right = (torch.ones(PRODUCT, PRODUCT, dtype=dtype) for _ in range(2))

        def once() -> float:
            began = time.process_time()
            torch.mm(left, right)
            return time.process_time() - began

        return min(once() for _ in range(10))

    return seconds(torch.float32) / seconds(torch.bfloat16)


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
