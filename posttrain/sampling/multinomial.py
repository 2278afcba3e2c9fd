"""Tokens drawn from logits by two random numbers each, where `torch.multinomial` needs one for every token of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.scoring.output_head import BLOCK_ELEMENTS

NOTHING = -1  # drawn where no token is possible
BLOCK = 512  # tokens of the vocabulary per block; a block is drawn first


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """Draw one token per row of logits [B, V] from softmax(logits / temperature) by inversion: first a block, then a token in it.

    Args:
        logits: [B, V].
        temperature: above 0.
        uniforms: [B, 2] fp64 in [0, 1).

    Returns:
        [B] token ids; `NOTHING` where the logits are not finite.
    """
    size = max(1, BLOCK_ELEMENTS[logits.device.type] // logits.shape[1])
    parts = zip(logits.split(size), uniforms.split(size), strict=True)
    return torch.cat([_draw((part.float() / temperature).softmax(-1), u) for part, u in parts])


def _draw(p: Tensor, uniforms: Tensor) -> Tensor:
    vocabulary = p.shape[1]
    whole = vocabulary - vocabulary % BLOCK
    masses = [p[:, :whole].unflatten(1, (-1, BLOCK)).sum(2)] if whole else []
    masses += [p[:, whole:].sum(1, keepdim=True)] if whole < vocabulary else []
    block, total = _invert(torch.cat(masses, 1), uniforms[:, :1])
    at = block * BLOCK + torch.arange(BLOCK, device=p.device)
    inside = p.gather(1, at.clamp(max=vocabulary - 1)).masked_fill_(at >= vocabulary, 0.0)
    token = block * BLOCK + _invert(inside, uniforms[:, 1:])[0]
    return token.masked_fill_(total.isnan(), NOTHING)[:, 0]


def _invert(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first index [B, 1] at which the sum of masses [B, K] exceeds the share `uniform` [B, 1] of all, and all [B, 1]."""
    edges = masses.cumsum(1, dtype=torch.float64)
    total = edges[:, -1:]
    return torch.searchsorted(edges, uniform * total, right=True).clamp_(max=masses.shape[1] - 1), total
