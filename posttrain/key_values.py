"""A cache of keys and values with room for the tokens to come, in the form that transformers' models update.

transformers' own grows by concatenation: every new token copies the whole cache. Here it is written into its column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Room(DynamicLayer):
    """One layer's keys and values, [B, kv heads, columns, D], the first `filled` columns in use.

    It keeps all of them where attention is over a sliding window: the mask hides what is out of the window.
    """

    def __init__(self, rows: int, columns: int, filled: int, like: Any) -> None:
        """Room for `rows` times `columns` keys and values of the form that the layer `like` holds."""
        super().__init__()
        self.all_keys, self.all_values = (
            part.new_zeros(rows, part.shape[1], columns, part.shape[3]) for part in (like.keys, like.values)
        )
        self.is_initialized = True
        self._fill(filled)

    def _fill(self, columns: int) -> None:
        """The first `columns` are in use."""
        self.keys, self.values = self.all_keys[:, :, :columns], self.all_values[:, :, :columns]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the next columns; the keys and values so far, as views."""
        filled = self.keys.shape[2]
        self._fill(filled + key_states.shape[2])
        self.keys[:, :, filled:] = key_states
        self.values[:, :, filled:] = value_states
        return self.keys, self.values

    def put(self, rows: slice, keys: Tensor, values: Tensor) -> None:
        """Give `rows` their last columns in use, from [rows, kv heads, T, D]."""
        width = keys.shape[2]
        self.keys[rows, :, -width:] = keys
        self.values[rows, :, -width:] = values

    def move(self, places: Tensor, movers: Tensor, left: int) -> None:
        """Copy the rows `movers` over the rows `places`, then keep the first `left` rows: nothing else is copied."""
        for used in (self.keys, self.values):
            used[places] = used[movers]
        filled = self.keys.shape[2]
        self.all_keys, self.all_values = self.all_keys[:left], self.all_values[:left]
        self._fill(filled)


def moves(stays: Tensor) -> tuple[Tensor, Tensor]:
    """From which rows stay, [B]: the places that become free among the first ones, and the later rows that take them."""
    left = int(stays.sum())
    return (~stays[:left]).nonzero()[:, 0], left + stays[left:].nonzero()[:, 0]


def kept(places: Tensor, movers: Tensor, left: int) -> Tensor:
    """Indices [left] of the rows that are there after `Room.move`, in their new order."""
    order = torch.arange(left, device=places.device)
    order[places] = movers
    return order
