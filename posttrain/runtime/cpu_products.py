"""Products of fp32 matrices by oneDNN where torch's own choice is slow: on AMD chips with AVX-512.

torch multiplies fp32 matrices by MKL, which uses half of such a chip's registers: one core of a Zen 5 reaches 105 GFLOP/s with it
and 240 with oneDNN, which comes with torch as well (1,600 rows, 576 and 1,536 columns). With AVX2 alone both are as fast. Kernels
are replaced below autograd, so that forward and backward passes of every model gain; sums are in another order, no coarser.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

WORTHWHILE = 2**20
"""Multiplications from which on a product gains more than the way through Python costs: 2 of some 8 microseconds."""
DEEP = 64
"""Length of the sums from which on a product added to a matrix gains more than one more pass over that matrix costs."""


@functools.cache
def fast_cpu_products() -> torch.library.Library | None:
    """Replace the kernels of this process once, on chips that gain by it; what is registered, or None."""
    chip = torch.cpu.get_capabilities()
    if not ("AMD" in str(chip.get("cpu_name")) and chip.get("avx512_f") and torch.backends.mkldnn.is_available()):
        return None
    return register()


def register() -> torch.library.Library:
    """Replace the kernels for as long as the result lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():  # that a kernel is replaced, which is the intention
        warnings.simplefilter("ignore", UserWarning)
        for name, kernel in (("mm", _mm), ("addmm", _addmm), ("addmm_", _addmm_in_place)):
            library.impl(name, kernel, "CPU", allow_override=True)
    return library


def _gains(left: Tensor, right: Tensor) -> bool:
    """Of left [A, B] and right [B, C]."""
    alike = left.dtype is right.dtype is torch.float32
    return alike and left.dim() == right.dim() == 2 and len(left) * right.numel() >= WORTHWHILE and left.shape[1] == len(right)


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
    return product


def _mm(left: Tensor, right: Tensor) -> Tensor:
    if _gains(left, right):
        return _product(left, right)
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[-1]))  # of `out` the kernel is torch's


def _addmm(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    bias = added.dim() == 1 and added.is_contiguous() and added.dtype is torch.float32 and len(added) == right.shape[-1]
    if bias and beta == alpha == 1 and _gains(left, right):
        return _product(left, right, added)
    return torch.addmm(added, left, right, beta=beta, alpha=alpha, out=left.new_empty(left.shape[0], right.shape[-1]))


def _addmm_in_place(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    made = torch.Size((left.shape[0], right.shape[-1]))
    if added.shape != made:  # `add_` would spread one row over all, and `out` would be resized
        raise RuntimeError(f"Bad in-place call: input tensor size {[*added.shape]} and output tensor size {[*made]} should match")
    if beta == 1 and left.shape[1] >= DEEP and added.dtype is torch.float32 and _gains(left, right):
        return added.add_(_product(left, right), alpha=alpha)
    return torch.addmm(added, left, right, beta=beta, alpha=alpha, out=added)
