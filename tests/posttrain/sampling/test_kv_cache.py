"""The preallocated cache: what is written where, and who moves when rows leave."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from posttrain.sampling.kv_cache import PreallocatedLayer, kept, moves


def numbered(rows: int, columns: int, filled: int) -> PreallocatedLayer:
    """Keys that say `10 * row + column`, and their negatives as values."""
    keys = (10.0 * torch.arange(rows)[:, None] + torch.arange(filled))[:, None, :, None].expand(-1, 2, -1, 3)
    layer = PreallocatedLayer(rows, columns, filled, SimpleNamespace(keys=keys, values=-keys))
    layer.put(slice(0, rows), keys, -keys)
    return layer


def test_the_last_rows_take_the_places_of_those_that_left():
    """Rows 1 and 3 of six leave: rows 4 and 5 move there, the others stay where they are."""
    places, movers = moves(torch.tensor([False, True, False, True, False, False]), 4)
    assert places.tolist() == [1, 3]
    assert movers.tolist() == [4, 5]
    assert kept(places, movers, 4).tolist() == [0, 4, 2, 5]
    layer = numbered(6, 5, 2)
    layer.move(places, movers, 4)
    assert layer.keys[:, 0, :, 0].tolist() == [[0, 1], [40, 41], [20, 21], [50, 51]]
    assert torch.equal(layer.values, -layer.keys)


def test_nothing_moves_when_the_last_rows_leave():
    places, movers = moves(torch.tensor([False, False, True, True]), 2)
    assert places.tolist() == movers.tolist() == []
    assert kept(places, movers, 2).tolist() == [0, 1]


def test_new_columns_join_the_old_ones_without_a_copy():
    layer = numbered(2, 4, 2)
    before = layer.keys.data_ptr()
    keys, values = layer.update(torch.full((2, 2, 1, 3), 7.0), torch.full((2, 2, 1, 3), 8.0))
    assert keys[:, 1, :, 2].tolist() == [[0, 1, 7], [10, 11, 7]]
    assert values[0, 0, :, 0].tolist() == [0, -1, 8]
    assert keys.data_ptr() == before
    assert layer.get_seq_length() == 3


def test_a_narrower_group_of_prompts_stands_at_the_right():
    layer = PreallocatedLayer(3, 4, 3, SimpleNamespace(keys=torch.zeros(1, 1, 3, 1), values=torch.zeros(1, 1, 3, 1)))
    layer.put(slice(1, 3), torch.ones(2, 1, 2, 1), torch.ones(2, 1, 2, 1))
    assert layer.keys[:, 0, :, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
