"""Which key a query may see, in the form that a model's attention takes.

An explicit mask switches off what transformers would have made itself, sliding windows included, so every layer type of a model
is given a mask of its own. A window counts positions of the sequence, not places in the packed row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from posttrain.data.packing import Packed

BLOCK = 128  # FlexAttention works in blocks of this many queries and keys


def attention_mask(config: Any, packed: Packed) -> Any:
    """The argument `attention_mask` of a decoder with this config: one mask, or one per layer type."""
    windows = layer_windows(config)
    if len(set(windows.values())) == 1:
        return _rendered(config, packed, next(iter(windows.values())))
    return {name: _rendered(config, packed, window) for name, window in windows.items()}


def layer_windows(config: Any) -> dict[str | None, int | None]:
    """Sliding window by layer type; a model that knows no layer types has the key None."""
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if not types:
        return {None: window}
    return {name: window if name == "sliding_attention" else None for name in dict.fromkeys(types)}


def _rendered(config: Any, packed: Packed, window: int | None) -> Any:
    if config._attn_implementation == "flex_attention":
        return _block_mask(packed, window)
    visible = visible_keys(packed, window)
    if config._attn_implementation != "eager":
        return visible
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.float32).min)


def visible_keys(packed: Packed, window: int | None = None) -> Tensor:
    """[R, 1, C, C]: causal, within one example, from a branch only to the prompt or the same branch, and inside the window.

    Padding sees itself, so that no softmax is over nothing.
    """
    owner, part, position = packed.owner, packed.part, packed.position_ids
    visible = torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool, device=owner.device).tril()
    visible = visible & (owner[:, :, None] == owner[:, None, :])
    visible &= (part[:, None, :] == 0) | (part[:, :, None] == part[:, None, :])
    if window is not None:
        visible &= position[:, :, None] - position[:, None, :] < window
    return visible[:, None]


def _block_mask(packed: Packed, window: int | None) -> Any:
    """The same visibility for FlexAttention, which skips blocks that nothing is visible in."""
    from torch.nn.attention.flex_attention import create_block_mask

    owner, part, position = packed.owner, packed.part, packed.position_ids

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (query >= key) & (owner[row, query] == owner[row, key])
        same = same & ((part[row, key] == 0) | (part[row, query] == part[row, key]))
        return same if window is None else same & (position[row, query] - position[row, key] < window)

    rows, width = owner.shape
    return create_block_mask(visible, rows, None, width, width, device=str(owner.device), BLOCK_SIZE=BLOCK)
