"""How fast this machine multiplies matrices: what a stage's own operations are compared with."""

from __future__ import annotations

import functools
import time

import torch

from posttrain.runtime.cpu_products import fast_cpu_products

SIZES = {"cpu": 768, "cuda": 4096}  # rows and columns of the matrices
TRIES = 3  # of which the fastest counts


@functools.cache
def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """10⁹ operations a second of a product of two square matrices on this device, with the threads that this process has."""
    fast_cpu_products()
    size = SIZES[device.type]
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))

    def seconds() -> float:
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        return time.perf_counter() - began

    seconds()
    return round(2e-9 * size**3 / min(seconds() for _ in range(TRIES)), 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
