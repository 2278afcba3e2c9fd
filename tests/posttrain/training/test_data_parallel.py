"""How a step is divided over processes, without any: the shares are known to all from the plan."""

from __future__ import annotations

import numpy as np
import pytest

import posttrain.training.data_parallel as parallel
from posttrain.training.data_parallel import Pass, passes, shared

LENGTHS = np.array([9, 3, 7, 5, 1, 8])


def test_rows_are_shared_by_length_by_hand():
    """Longest first to whom has fewest tokens: 9 to A, 8 to B, 7 to B (8 < 9), 5 to A, 3 to A (14 < 15), 1 to B (15 < 17)."""
    assert shared(range(6), LENGTHS, 2) == [[0, 3, 1], [5, 2, 4]]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_row_has_one_process(processes):
    shares = shared([5, 0, 2], LENGTHS, processes)
    assert len(shares) == processes
    assert sorted(row for share in shares for row in share) == [0, 2, 5]


def test_one_process_takes_every_row_in_groups_of_the_budget():
    """9 + 3 do not fit 10: the groups are those of `micro_batches`, and all count."""
    found = list(passes([0, 1, 2], LENGTHS, 10))
    assert found == [Pass([0], True, False), Pass([2, 1], True, True)]


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        # Rows 0 (9 tokens) and 2 (7) of three processes: the third has none, and keeps pace with the shorter one.
        (0, [Pass([0], True, True)]),
        (1, [Pass([2], True, True)]),
        (2, [Pass([2], False, True)]),
    ],
)
def test_a_process_without_rows_keeps_pace(rank, expected, monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: rank)
    assert list(passes([0, 2], LENGTHS, 100)) == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_take_as_many_passes_as_the_one_with_most(rank, monkeypatch):
    """Budget 8: A has 9, 5 and 3 tokens in two passes (9; 5 and 3), B has 8, 7 and 1 in two (8; 7 and 1)."""
    monkeypatch.setattr(parallel, "size", lambda: 2)
    monkeypatch.setattr(parallel, "rank", lambda: rank)
    found = list(passes(range(6), LENGTHS, 8))
    assert [list(each.rows) for each in found] == [[[0], [3, 1]], [[5], [2, 4]]][rank]
    assert [each.last for each in found] == [False, True]
    assert all(each.counts for each in found)
