"""Attention over one packed row without a mask: each branch attends as the causal sequence `prompt · branch` that it is.

A mask makes the attention kernel compute what it then hides: most of a packed row. Here the row is split where branches and
prompts begin, and every run of queries gets the keys that it may see. Registered with transformers under `SEGMENTS`; without
segments, as while generating, it is plain SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from posttrain.data.packing import Example

SEGMENTS = "segments"


@dataclass(frozen=True)
class Segments:
    """How one row of tokens falls apart."""

    queries: list[int]
    """Lengths of the runs of queries, in the order of the row."""
    pieces: list[int]
    """Lengths of the runs of keys: prompts and branches."""
    sees: list[tuple[int, int]]
    """By run of queries: the pieces that it sees, in the order of their positions. Its queries are the last of these tokens."""


def segments_of(examples: Sequence[Example], padding: int = 0) -> Segments:
    """The segments of examples that stand one after the other: prompt and first branch are one run of queries.

    Padding at the end is one more run, which sees itself.
    """
    found = Segments([], [], [])
    for example in examples:
        prompt = len(found.pieces)
        found.pieces.extend([len(example.prompt), *map(len, example.branches)])
        for number, branch in enumerate(example.branches, 1):
            found.queries.append(len(branch) + (len(example.prompt) if number == 1 else 0))
            found.sees.append((prompt, prompt + number))
    if padding:
        found.sees.append((len(found.pieces), len(found.pieces) + 1))
        found.pieces.extend([padding, 0])
        found.queries.append(padding)
    return found


def segment_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    dropout: float = 0.0, sliding_window: int | None = None, segments: Segments | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of query [1, heads, T, D] over key and value [1, kv heads, T, D]; returns [1, T, heads, D]."""
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, sliding_window=sliding_window, **more
        )
    # A CPU's kernel takes twice as long in bfloat16 (backward pass of 150 queries and 9 heads: 3.5 and 1.8 ms).
    exact = torch.promote_types(query.dtype, torch.float32) if query.device.type == "cpu" else query.dtype
    with torch.autocast(query.device.type, enabled=False):
        out = _by_segments(query.to(exact), key.to(exact), value.to(exact), segments, scaling, dropout, sliding_window)
    return out.to(query.dtype), None


def _by_segments(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    """Attention [1, T, heads, D] of each run of queries over the keys that it sees."""
    keys, values = key.split(segments.pieces, 2), value.split(segments.pieces, 2)
    out = []
    for run, (prompt, branch) in zip(query.split(segments.queries, 2), segments.sees, strict=True):
        k, v = (torch.cat([pieces[prompt], pieces[branch]], 2) for pieces in (keys, values))
        mask = _mask(run.shape[2], k.shape[2], window, run.device)
        out.append(
            scaled_dot_product_attention(
                run, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=k.shape[1] != run.shape[1]
            )
        )
    return torch.cat(out, 2).transpose(1, 2).contiguous()


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """[queries, keys] where plain causality does not say it: queries that are the last of the keys, or a sliding window."""
    before = keys - queries
    if not before and (window is None or window >= keys):
        return None
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return visible if window is None else visible.triu(before - window + 1)


ALL_ATTENTION_FUNCTIONS.register(SEGMENTS, segment_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(SEGMENTS, sdpa_mask)
