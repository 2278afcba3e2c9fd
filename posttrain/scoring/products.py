"""Matrix products that keep fp32: what autocast would round to half precision is rounded before the product, never after it.

Half-precision hardware multiplies exactly and adds up in fp32. Only the result is rounded, to 8 or 11 bits, where autocast asks
for it: a bfloat16 logit of 16 is wrong by up to 0.06, more than a step of DPO moves it. `torch.mm(…, out_dtype=float32)` leaves
that rounding out at no cost on CUDA; a CPU, which has no such product, multiplies the same numbers in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HALVES = (torch.bfloat16, torch.float16)
_LARGE = 2.0**15  # half of the largest fp16 number; it blurs numbers below 6e-5 and has none below 6e-8


def operand_type(hidden: Tensor) -> torch.dtype:
    """The type in which the operands of a product with `hidden` enter it.

    On CUDA that of an active autocast. Elsewhere fp32, or the tensor's own finer type: on a CPU rounding them saves no time.
    """
    if hidden.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return torch.promote_types(hidden.dtype, torch.float32)


def product(left: Tensor, right: Tensor, unit: Tensor | None = None) -> Tensor:
    """left [A, B] @ right [B, C] of one type, in fp32 (fp64 of fp64), times the unit of an operand. Call it with autocast off."""
    if left.dtype not in HALVES:
        out = left @ right
    else:
        out = torch.mm(left, right, out_dtype=torch.float32) if left.is_cuda else left.float() @ right.float()
    return out if unit is None else out.mul_(unit)


def operand(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """`values` as an operand, and its unit: the factor that a product with it is to be multiplied by, None for 1.

    In fp16 they are scaled so that the largest lies where its numbers are dense; every other type has the range of fp32.
    """
    if dtype != torch.float16:
        return values.to(dtype), None
    unit = values.abs().amax().clamp(min=torch.finfo(torch.float32).tiny) / _LARGE
    return (values / unit).to(dtype), unit


def fp32_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden [..., H] @ weight [V, H]ᵀ + bias [V] in fp32 whatever autocast is active, differentiable."""
    raw: Tensor = _Linear.apply(hidden.flatten(0, -2), weight, operand_type(hidden))  # type: ignore[no-untyped-call]
    raw = raw.unflatten(0, hidden.shape[:-1])
    return raw if bias is None else raw + bias


class _Linear(torch.autograd.Function):
    """[N, H], [V, H] → [N, V]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.dtype = dtype
        with torch.autocast(hidden.device.type, enabled=False):
            return product(hidden.to(dtype), weight.to(dtype).T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        d_raw, unit = operand(grads[0], ctx.dtype)
        of_hidden, of_weight, _ = ctx.needs_input_grad
        d_hidden = product(d_raw, weight.to(ctx.dtype), unit).to(hidden.dtype) if of_hidden else None
        d_weight = product(d_raw.T, hidden.to(ctx.dtype), unit).to(weight.dtype) if of_weight else None
        return d_hidden, d_weight, None


def fp32_logits(model: Any) -> AbstractContextManager[None]:
    """Within, a transformers language model gives fp32 logits whatever autocast is active."""
    return fp32_output(model.get_output_embeddings())


@contextmanager
def fp32_output(layer: Any) -> Iterator[None]:
    """Within, a model's last layer gives fp32 whatever autocast is active.

    A plain matrix multiplies as the blocked head does, so that what is sampled and what is scored are one distribution. A layer
    that is more than a matrix (an adapter on it, fewer bits) computes in fp32.
    """
    if not torch.is_autocast_enabled(next(layer.parameters()).device.type):
        yield
        return
    own, patched, matrix = layer.forward, "forward" in vars(layer), type(layer) is nn.Linear
    weight = layer.weight.to(operand_type(layer.weight)) if matrix and not torch.is_grad_enabled() else None  # once for all steps

    def of_matrix(hidden: Tensor) -> Tensor:
        return fp32_linear(hidden, layer.weight if weight is None else weight, layer.bias)

    def of_module(hidden: Tensor, *more: Any, **named: Any) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return own(hidden.float(), *more, **named)

    layer.forward = of_matrix if matrix else of_module
    try:
        yield
    finally:
        if patched:
            layer.forward = own
        else:
            del layer.forward
