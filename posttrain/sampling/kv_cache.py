"""A preallocated cache of keys and values with the interface that transformers' models update.

transformers' own cache grows by concatenation, so every new token copies all of it. Here a token is written into its column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, [B, kv heads, columns, D], the first `filled` columns in use.

    With sliding-window attention it keeps all columns; the mask hides those outside the window.
    """

    def __init__(self, rows: int, columns: int, filled: int, like: Any) -> None:
        """Space for `rows` times `columns` keys and values of the form that the layer `like` holds."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values = (
            part.new_zeros(rows, part.shape[1], columns, part.shape[3]) for part in (like.keys, like.values)
        )
        self.is_initialized = True
        self.fill(filled)

    def fill(self, columns: int) -> tuple[Tensor, Tensor]:
        """Mark the first `columns` as used, and return views of them."""
        used = self.all_keys[:, :, :columns], self.all_values[:, :, :columns]
        self.keys, self.values = used
        self.filled = columns
        return used

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the next columns; the keys and values so far, as views."""
        new = slice(self.filled, self.filled + key_states.shape[2])
        self.all_keys[:, :, new] = key_states
        self.all_values[:, :, new] = value_states
        return self.fill(new.stop)

    def put(self, rows: slice, keys: Tensor, values: Tensor) -> None:
        """Give `rows` their last columns in use, from [rows, kv heads, T, D]."""
        last = slice(self.filled - keys.shape[2], self.filled)
        self.all_keys[rows, :, last] = keys
        self.all_values[rows, :, last] = values

    def move(self, places: Tensor, movers: Tensor, left: int) -> None:
        """Copy the rows `movers` over the rows `places`, then keep the first `left` rows: nothing else is copied."""
        for part in (self.all_keys, self.all_values):
            part[places, :, : self.filled] = part[movers, :, : self.filled]
        self.all_keys, self.all_values = self.all_keys[:left], self.all_values[:left]
        self.fill(self.filled)


class PreallocatedCache(Cache):
    """The cache of a model."""

    layers: list[PreallocatedLayer]  # type: ignore[assignment]  # of one kind, where transformers allows several

    def __init__(self, layers: list[PreallocatedLayer]) -> None:
        super().__init__(layers=list(layers))

    @property
    def filled(self) -> int:
        """Columns in use."""
        return self.layers[0].filled


def moves(ended: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """From which rows [B] continue (`left` of them): the free places among the first rows, and the later rows that fill them."""
    return ended[:left].nonzero()[:, 0], left + (~ended[left:]).nonzero()[:, 0]


def kept(places: Tensor, movers: Tensor, left: int) -> Tensor:
    """Indices [left] of the rows after `PreallocatedLayer.move`, in their new order."""
    order = torch.arange(left, device=places.device)
    order[places] = movers
    return order
