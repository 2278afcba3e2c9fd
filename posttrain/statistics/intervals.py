"""Bootstrap intervals, seeded, so that the same numbers give the same interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
Interval = tuple[float, float]


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float] | None = None, samples: int = 1
) -> tuple[float, Interval]:
    """sum(numerators) / sum(denominators) and its 95% percentile-bootstrap interval over the n units (prompts, pairs).

    Without denominators this is a mean. Units that compare two policies on one prompt make the interval paired. A unit has
    `samples` consecutive numbers: answers to one prompt are not independent of each other, so that prompts are what is resampled.
    """
    numbers = np.asarray(numerators, np.float64)
    parts = np.ones_like(numbers) if denominators is None else np.asarray(denominators, np.float64)
    top, bottom = (each.reshape(-1, samples).sum(1) for each in (numbers, parts))
    drawn = np.random.default_rng(0).integers(0, len(top), (RESAMPLES, len(top)))
    low, high = np.quantile(top[drawn].sum(1) / bottom[drawn].sum(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(top.sum() / bottom.sum()), (float(low), float(high))


def win_rate(candidate: Sequence[float], opponent: Sequence[float], samples: int = 1) -> tuple[float, Interval]:
    """Share of prompts on which the candidate's reward is higher, ties counting half, with its interval.

    Of `samples` consecutive answers to a prompt, each of the candidate's meets each of the opponent's.
    """
    ours, theirs = (np.asarray(rewards).reshape(-1, samples) for rewards in (candidate, opponent))
    difference = ours[:, :, None] - theirs[:, None, :]
    return ratio_interval(((difference > 0) + 0.5 * (difference == 0)).mean((1, 2)).tolist())
