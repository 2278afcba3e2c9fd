"""The area under the ROC curve: how often a unit of one kind scores higher than a unit of the other, with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain.statistics.intervals import Array, student_t
from schemas.estimates import Estimate

PSEUDO = 1  # units of each kind, at either end, that are added: the interval then covers 97% to 100%, at an area of .99 too


def placements(scores: Array, others: Array) -> Array:
    """[n] share of `others` that each of `scores` [n] is above, ties counting half."""
    ordered = np.sort(others)
    below, not_above = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    return np.asarray((below + not_above) / 2 / max(len(ordered), 1))


def area(scores: Array, others: Array) -> float:
    """P(a score is above one of the others), ties counting half (Mann-Whitney); 0.5 where there is none of either."""
    return float(placements(scores, others).mean()) if len(scores) and len(others) else 0.5


def area_of_counts(high: Mapping[int, int], low: Mapping[int, int]) -> float:
    """The same of numbers that come so many times: number → count, neither empty."""
    values, weights = np.array(sorted(low), np.int64), np.array([low[value] for value in sorted(low)], np.float64)
    behind = np.concatenate([[0.0], np.cumsum(weights)])
    given = np.array([*high], np.int64)
    below, not_above = (behind[np.searchsorted(values, given, side)] for side in ("left", "right"))
    counts = np.array([*high.values()], np.float64)
    return float(((below + not_above) / 2 * counts).sum() / counts.sum() / behind[-1])


def auc(scores: Sequence[float], positive: Sequence[bool], groups: Sequence[int] | None = None) -> Estimate | None:
    """The area with its interval; None without units of both kinds.

    The variance is that of Obuchowski 1997 ("Nonparametric analysis of clustered ROC curve data"). A unit of each kind above all
    of the other, and one below, are added before it is taken, so that an area of 1 leaves room for an error.

    Args:
        scores: of each unit.
        positive: whether it is of the kind that should score higher.
        groups: units of one number, such as answers to one prompt, are not independent of each other.
    """
    values, kind = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if not kind.any() or kind.all():
        return None
    _, group = np.unique(np.arange(len(values)) if groups is None else np.asarray(groups), return_inverse=True)
    high, low = placements(values[kind], values[~kind]), 1 - placements(values[~kind], values[kind])
    found = float(high.mean())
    mean, variance = _with_pseudo(high, low, group[kind], group[~kind], len(set(group.tolist())))
    reach = float(student_t(min(len(high), len(low)) + 2 * PSEUDO - 1)) * math.sqrt(variance)
    return Estimate(found, (max(mean - reach, 0.0), min(mean + reach, 1.0)))


def _with_pseudo(high: Array, low: Array, of_high: Array, of_low: Array, groups: int) -> tuple[float, float]:
    """Mean and variance of the area given placements of both kinds, and the group of each."""
    ends = np.repeat([1.0, 0.0], PSEUDO)
    apart = np.arange(groups, groups + 2 * PSEUDO)
    high, of_high = np.concatenate([high, ends]), np.concatenate([of_high, apart])
    low, of_low = np.concatenate([low, ends]), np.concatenate([of_low, apart + 2 * PSEUDO])
    mean, size = (high.mean() + low.mean()) / 2, groups + 4 * PSEUDO
    one, two = (np.bincount(at, each - mean, size) for at, each in ((of_high, high), (of_low, low)))
    terms = one / len(high) + two / len(low)
    return float(mean), float((terms**2).sum()) * size / (size - 1)
