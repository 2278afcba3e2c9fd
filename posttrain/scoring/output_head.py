"""Log-probabilities of target tokens without the logits: the output head as one pass over blocks of the vocabulary.

As in FlashAttention (arXiv 2205.14135), the softmax over the vocabulary is normalised online: a block of logits stays in the
processor's cache, is exponentiated against the running maximum and at once multiplied by the same block of the head, so
that `E_p[W] = softmax(h Wᵀ) W` and the normaliser come out of a single pass. `[N, V]` never exists.

With a frozen head the forward pass keeps d log Z / d h, and the backward pass costs no product at all: two products per token.
With a trainable head the backward pass computes the logits of each block again: four.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.models.blocks import bare
from posttrain.scoring.products import HALVES, operand, operand_type, product

# Logits held at once. On a CPU they should fit its cache; on a GPU they should fill it.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**25}
MIN_COLUMNS = 512
LOWEST = -1e30  # below every logit, and finite, so that its distance to one is


@dataclass(frozen=True)
class Head:
    """The output head: `logits = cap * tanh(raw / cap) / temperature`, `raw = scale * (h Wᵀ + b)`; without a cap `logits = raw /
    temperature`."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def slope(self) -> float:
        """Of the logits in `h Wᵀ + b` at 0."""
        return self.scale / self.temperature


def has_matrix(model: nn.Module) -> bool:
    """Whether the output layer is a plain matrix, some rows of which peft may train, from which a `Head` can be made."""
    layer = model.get_output_embeddings()  # type: ignore[operator]
    plain = bare(layer)
    return type(plain) is nn.Linear and (layer is plain or plain.bias is None)  # peft leaves the bias out


def head_of(model: nn.Module, temperature: float = 1.0) -> Head:
    """The head of a transformers language model, with the logit scale and soft cap of its config.

    Raises:
        TypeError: when the output layer is more than a matrix, as under an adapter or when quantised.
    """
    layer = model.get_output_embeddings()  # type: ignore[operator]
    if not has_matrix(model):
        raise TypeError(f"the output layer is a {type(layer).__name__}, not a plain matrix")
    config: Any = model.config
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        scale *= config.d_model**-0.5
    return Head(layer.weight, bare(layer).bias, float(scale), getattr(config, "final_logit_softcapping", None), temperature)


def token_logprobs(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target | hidden), never above 0, and log Z, the normaliser of the softmax.

    Args:
        hidden: [N, H]; operands of products are in the type of `products.operand_type`, logits in fp32.
        head: the output head.
        targets: [N] token ids.

    Returns:
        logprobs [N] and normaliser [N] in fp32, both differentiable in hidden, head weight and bias.
    """
    dtype = operand_type(hidden)
    return _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, head, dtype)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def token_statistics(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the next-token distribution in nats [N], never below 0, and whether each target is its most likely token [N]."""
    h = hidden.to(operand_type(hidden))
    best = torch.full((len(h),), LOWEST, device=h.device)
    total, below = torch.zeros_like(best), torch.zeros_like(best)  # Σ exp(logit - best), Σ exp(logit - best) (best - logit)
    top = torch.zeros_like(targets)
    with torch.autocast(h.device.type, enabled=False):
        for block in _blocks(head.weight, len(h)):
            logits = _logits(h, head.weight[block].to(h.dtype), None if head.bias is None else head.bias[block], head)
            highest, at = logits.max(-1)
            top = torch.where(highest > best, at + block.start, top)
            before, best = best, torch.maximum(best, highest)
            decay, logits = (before - best).exp(), logits.sub_(best[:, None])
            p = logits.exp()
            below = (below + total * (best - before)) * decay - logits.mul_(p).sum(-1)
            total = total * decay + p.sum(-1)
    return total.log() + below / total, (top == targets).float()


class _TokenLogprobs(torch.autograd.Function):
    """Saves d log Z / d h where the head is frozen, else what the backward pass needs to make the logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.head, ctx.dtype, ctx.head_trains = head, dtype, ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keep = ctx.needs_input_grad[0] and not ctx.head_trains
        with torch.autocast(hidden.device.type, enabled=False):
            logprobs, normaliser, slope, expected = _normalise(hidden.to(dtype), weight, bias, targets, head, keep)
        ctx.save_for_backward(hidden, weight, bias, targets, logprobs, normaliser, slope, expected)
        return logprobs, normaliser

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_logprobs, d_normaliser = grads
        hidden, weight, bias, targets, logprobs, normaliser, slope, expected = ctx.saved_tensors
        to_all = (d_normaliser - d_logprobs)[:, None]
        if not ctx.head_trains:
            to_target = d_normaliser * logprobs.exp() - d_logprobs * logprobs.expm1()  # 1 - p without cancellation
            to_target = (to_target if slope is None else to_target * slope)[:, None] * ctx.head.slope
            d_hidden = expected.mul(to_all).addcmul_(to_target, weight[targets].to(ctx.dtype).float())
            return d_hidden.to(hidden.dtype), None, None, None, None, None
        h, head = hidden.to(ctx.dtype), ctx.head
        d_hidden = torch.zeros(h.shape, device=h.device)
        d_weight = torch.empty_like(weight, dtype=torch.float32)
        d_bias = torch.empty_like(bias, dtype=torch.float32) if bias is not None else None
        for block in _blocks(weight, len(h)):
            part = weight[block].to(ctx.dtype)
            logits = _logits(h, part, None if bias is None else bias[block], head)
            curve = _curve(logits, head)
            d_raw = logits.sub_(normaliser[:, None]).exp_().mul_(to_all)
            at, inside = _at(targets, block)
            d_raw.scatter_add_(1, at, d_logprobs[:, None] * inside)  # before the rounding: near p = 1 the two cancel
            d_raw = (d_raw if curve is None else d_raw.mul_(curve)).mul_(head.slope)
            if d_bias is not None:
                d_bias[block] = d_raw.sum(0)
            d_raw, unit = operand(d_raw, ctx.dtype)
            d_hidden += product(d_raw, part, unit)
            d_weight[block] = product(d_raw.T, h, unit)
        return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), d_bias, None, None, None


def _normalise(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """log p of the targets [N], log Z [N], with a soft cap its slope at the targets [N], and where asked what all other tokens
    contribute to d log Z / d h [N, H]: a rounded probability of the target would be all of the error where it is nearly 1."""
    best = torch.full((len(hidden), 1), LOWEST, device=hidden.device)
    total, target = torch.zeros_like(best), torch.zeros_like(best)
    expected = torch.zeros(hidden.shape, device=hidden.device) if keep else None
    for block in _blocks(weight, len(hidden)):
        part = weight[block].to(hidden.dtype)
        logits = _logits(hidden, part, None if bias is None else bias[block], head)
        at, inside = _at(targets, block)
        target = torch.where(inside, logits.gather(1, at), target)  # of the very logits that are summed: p ≤ 1
        curve = _curve(logits, head) if keep else None
        before, best = best, torch.maximum(best, logits.amax(-1, keepdim=True))
        p = logits.sub_(best).exp_()
        decay = (before - best).exp_()
        total = total.mul_(decay).add_(p.sum(-1, keepdim=True))
        if expected is not None:
            p.scatter_(1, at, p.gather(1, at).masked_fill_(inside, 0.0))
            _add_product(expected.mul_(decay), p if curve is None else p.mul_(curve), part)
    logprobs = (target - best).sub_(total.log())[:, 0]
    slope = _curve(target, head)
    return (
        logprobs,
        (best + total.log())[:, 0],
        None if slope is None else slope[:, 0],
        None if expected is None else expected.div_(total).mul_(head.slope),
    )


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out += left @ right, where left is fp32 and right in the type of the operands."""
    if left.dtype == right.dtype:
        out.addmm_(left, right)
    else:
        left, unit = operand(left, right.dtype)
        out += product(left, right, unit)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
    """Logits [N, block] in fp32 of operands of one type."""
    if hidden.dtype in HALVES:
        raw = product(hidden, weight.T)
        raw = raw if bias is None else raw.add_(bias)
    else:
        raw = nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype)).float()
    if head.softcap is None:
        return raw if head.slope == 1.0 else raw.mul_(head.slope)
    return raw.mul_(head.scale / head.softcap).tanh_().mul_(head.softcap / head.temperature)


def _curve(logits: Tensor, head: Head) -> Tensor | None:
    """Slope of the soft cap at the logits, between 0 and 1; None without one."""
    if head.softcap is None:
        return None
    return 1 - (logits * (head.temperature / head.softcap)).square_()


def _at(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Columns [N, 1] of the targets in a block, and which targets [N, 1] lie in it; the columns of others mean nothing."""
    column = targets[:, None] - block.start
    inside = (column >= 0) & (column < block.stop - block.start)
    return column.clamp_(0, block.stop - block.start - 1), inside


def _blocks(weight: Tensor, rows: int) -> Iterator[slice]:
    """Slices of the vocabulary whose logits fit the block."""
    columns = max(MIN_COLUMNS, BLOCK_ELEMENTS[weight.device.type] // max(1, rows))
    return (slice(start, min(start + columns, len(weight))) for start in range(0, len(weight), columns))
