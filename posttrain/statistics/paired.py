"""Whether two answer sheets to the same questions differ by more than chance."""

from __future__ import annotations

from math import comb


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test (1947): were both equally good, each question that one alone has right is a coin.

    Args:
        gained: questions that the first alone has right.
        lost: questions that the second alone has right.
    """
    total = gained + lost
    tail = sum(comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**total))
