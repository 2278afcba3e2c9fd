"""Paired answer sheets: values worked out by hand."""

from __future__ import annotations

import pytest

from posttrain.statistics.paired import mcnemar


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 2 / 32), (5, 0, 2 / 32), (1, 6, 2 * (1 + 7) / 128), (3, 4, 1.0), (0, 2000, 0.0)],
)
def test_p_is_twice_the_smaller_tail_of_a_fair_coin(gained, lost, p):
    """Of 7 tosses at most one: (1 + 7) / 128; the tails of 3 of 7 are 64 / 128 each."""
    assert mcnemar(gained, lost) == pytest.approx(p)
