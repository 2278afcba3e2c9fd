"""LoRA's linear layer as one operation: `y = x Wᵀ + b + s (x Aᵀ) Bᵀ`, added in place.

On a CPU the sum is in fp32 whatever the products are computed in: bfloat16 has 8 bits, and an update of a thousandth of the
output, as after a few steps, would be lost in it.

peft adds an update of the size of the output to it, scaled in a tensor of its own, and autograd adds the gradients of the two
ways through `x`: four passes over memory that the products do on their way. The numbers are the same up to the order of sums.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


def add_in_place(model: nn.Module) -> None:
    """Have the plain LoRA layers of a peft model compute as one operation; others (DoRA, transposed, with dropout) stay."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear and not layer.lora_variant:
            layer.__class__ = LoRALinear


class LoRALinear(Linear):
    """peft's layer, whose forward pass is this file's product where nothing but one adapter takes part."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Of x [..., in]: [..., out]."""
        adapter: str = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
        base = self.get_base_layer()
        plain = adapter in self.lora_A and not (args or kwargs or self.disable_adapters or self.merged)
        # A hook on the base layer, such as a bottleneck adapter's, runs only when the layer itself is called.
        hooked = base._forward_hooks or base._forward_pre_hooks
        if not plain or hooked or not isinstance(self.lora_dropout[adapter], nn.Identity):
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        tensors = [x, base.weight, base.bias, self.lora_A[adapter].weight, self.lora_B[adapter].weight]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]
        product: Tensor = _Product.apply(*tensors, self.scaling[adapter])  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """Of x [..., in], W [out, in], b [out] or None, A [r, in], B [out, r]; W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            inner, out = rows @ down.T, nn.functional.linear(rows, weight, bias)
            if x.device.type == "cpu":  # in half precision the first steps of an adapter would be rounded away
                exact = torch.promote_types(out.dtype, torch.float32)
                out, inner_exact, up_exact = out.to(exact), inner.to(exact), up.to(exact)
            else:
                inner_exact, up_exact = inner, up
            out.addmm_(inner_exact, up_exact.T, alpha=scaling)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scaling, ctx.shape = scaling, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        gradient = grads[0].reshape(-1, grads[0].shape[-1]).to(rows.dtype)
        to_inner = (gradient @ up).mul_(ctx.scaling)
        d_up = (gradient.T @ inner).mul_(ctx.scaling)
        d_rows = (gradient @ weight).addmm_(to_inner, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return d_rows, None, None, to_inner.T @ rows, d_up, None
