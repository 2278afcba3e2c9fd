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

# Logits held at once. On a CPU they should fit its cache; on a GPU they should fill it.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**25}
MIN_COLUMNS = 512


@dataclass(frozen=True)
class Head:
    """The output head: `logits = cap * tanh(raw / cap) / temperature`, `raw = scale * (h Wᵀ + b)`; without a cap `logits = raw /
    temperature`."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


def has_matrix(model: nn.Module) -> bool:
    """Whether the output layer is a plain matrix, from which a `Head` can be made."""
    return type(model.get_output_embeddings()) is nn.Linear  # type: ignore[operator]


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
    return Head(layer.weight, layer.bias, float(scale), getattr(config, "final_logit_softcapping", None), temperature)


def token_logprobs(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target | hidden) and log Z, the normaliser of the softmax.

    Args:
        hidden: [N, H]; on CUDA products run in the type of an active autocast, elsewhere in fp32 or its own finer type: a
            logit that is rounded to bfloat16 is wrong by up to 0.03 at 16, more than a step of DPO moves it.
        head: the output head.
        targets: [N] token ids.

    Returns:
        logprobs [N] and normaliser [N] in fp32, both differentiable in hidden, head weight and bias.
    """
    halved = hidden.is_cuda and torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if halved else torch.promote_types(hidden.dtype, torch.float32)
    return _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, head, dtype)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def token_statistics(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the next-token distribution in nats [N], and whether each target is its most likely token [N] (0 or 1)."""
    best = torch.full((len(hidden),), -torch.inf, device=hidden.device)
    total, weighted = torch.zeros_like(best), torch.zeros_like(best)
    top = torch.zeros_like(targets)
    for block in _blocks(head.weight, len(hidden)):
        logits, _ = _logits(hidden, head.weight[block], None if head.bias is None else head.bias[block], head)
        highest, at = logits.max(-1)
        top = torch.where(highest > best, at + block.start, top)
        rescaled, best = best, torch.maximum(best, highest)
        decay, p = (rescaled - best).exp(), (logits - best[:, None]).exp()
        total, weighted = total * decay + p.sum(-1), weighted * decay + (p * logits).sum(-1)
    return best + total.log() - weighted / total, (top == targets).float()


class _TokenLogprobs(torch.autograd.Function):
    """Saves d log Z / d h where the head is frozen, else what the backward pass needs to make the logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.head, ctx.dtype, ctx.head_trains = head, dtype, ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keep = ctx.needs_input_grad[0] and not ctx.head_trains
        with torch.autocast(hidden.device.type, enabled=False):
            h = hidden.to(dtype)
            normaliser, expected = _normalise(h, weight, bias, head, keep)
            target_logits, slope = _target_logits(h, weight, bias, targets, head)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, slope, expected)
        return target_logits - normaliser, normaliser

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_logprobs, d_normaliser = grads
        hidden, weight, bias, targets, normaliser, slope, expected = ctx.saved_tensors
        to_target, to_all = (d_logprobs * slope)[:, None], (d_normaliser - d_logprobs)[:, None]
        if not ctx.head_trains:
            d_hidden = expected.mul(to_all).addcmul_(to_target, weight[targets].float())
            return d_hidden.to(hidden.dtype), None, None, None, None, None
        h, head = hidden.to(ctx.dtype), ctx.head
        d_hidden = weight[targets].float() * to_target
        d_weight = torch.empty_like(weight, dtype=torch.float32)
        d_bias = torch.empty_like(bias, dtype=torch.float32) if bias is not None else None
        for block in _blocks(weight, len(h)):
            part = weight[block].to(ctx.dtype)
            logits, curve = _logits(h, part, None if bias is None else bias[block], head)
            d_raw = _times(logits.sub_(normaliser[:, None]).exp_().mul_(to_all), curve).to(ctx.dtype)
            d_hidden += d_raw @ part
            d_weight[block] = d_raw.T @ h
            if d_bias is not None:
                d_bias[block] = d_raw.float().sum(0)
        d_weight.index_add_(0, targets, h.float() * to_target)
        if d_bias is not None:
            d_bias.index_add_(0, targets, to_target[:, 0])
        return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), d_bias, None, None, None


def _normalise(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, keep: bool) -> tuple[Tensor, Tensor | None]:
    """log Z [N], and where asked d log Z / d h [N, H] = Σ_v p_v (d logit_v / d h)."""
    best = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    total = torch.zeros_like(best)
    expected = torch.zeros(hidden.shape, device=hidden.device) if keep else None
    for block in _blocks(weight, len(hidden)):
        part = weight[block].to(hidden.dtype)
        logits, curve = _logits(hidden, part, None if bias is None else bias[block], head)
        rescaled, best = best, torch.maximum(best, logits.amax(-1, keepdim=True))
        p = logits.sub_(best).exp_()
        decay = (rescaled - best).exp_()
        total = total.mul_(decay).add_(p.sum(-1, keepdim=True))
        if expected is not None:
            _add_product(expected.mul_(decay), _times(p, curve).to(hidden.dtype), part)
    normaliser = (best + total.log())[:, 0]
    return normaliser, None if expected is None else expected.div_(total)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """out += left @ right; out is fp32 whatever the products are computed in."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> tuple[Tensor, Tensor | float]:
    """Logits [N, block] in fp32, and their slope in `h Wᵀ + b` (a number where it is the same for all)."""
    weight = weight.to(hidden.dtype)
    raw = nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype)).float()
    return _curved(raw, head)


def _target_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The logits of the targets alone [N] and their slope [N], in fp32."""
    raw = (hidden.float() * weight[targets].to(hidden.dtype).float()).sum(-1)
    logits, slope = _curved(raw if bias is None else raw + bias[targets].float(), head)
    return logits, torch.as_tensor(slope, device=hidden.device).expand_as(logits)


def _curved(raw: Tensor, head: Head) -> tuple[Tensor, Tensor | float]:
    """Scale, soft cap and temperature applied to `h Wᵀ + b`, with the slope."""
    if head.softcap is None:
        slope = head.scale / head.temperature
        return raw if slope == 1.0 else raw * slope, slope
    curve = torch.tanh(raw * (head.scale / head.softcap))
    slope_of_cap = (1 - curve.square()).mul_(head.scale / head.temperature)
    return curve.mul_(head.softcap / head.temperature), slope_of_cap


def _times(values: Tensor, slope: Tensor | float) -> Tensor:
    return values if isinstance(slope, float) and slope == 1.0 else values.mul_(slope)


def _blocks(weight: Tensor, rows: int) -> Iterator[slice]:
    """Slices of the vocabulary whose logits fit the block."""
    columns = max(MIN_COLUMNS, BLOCK_ELEMENTS[weight.device.type] // max(1, rows))
    return (slice(start, min(start + columns, len(weight))) for start in range(0, len(weight), columns))
