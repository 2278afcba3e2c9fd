"""95% intervals of shares, means and ratios of means that keep their coverage with few units and near the ends of the range.

Both are deterministic: the same numbers give the same interval. `bench numbers` prints the coverage that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.estimates import Estimate

if TYPE_CHECKING:
    from torch import Tensor

RESAMPLES = 2000
TAIL = 0.025  # on either side of a 95% interval
PSEUDO = 2  # units at either end of a share's range that are added to the measured ones
# With few units the resampled tails are too light. These two hold the level on lognormal numbers from 8 units on:
EXTRA = 24.0  # the tail is taken at TAIL n / (n + EXTRA)
SPREAD = 0.25  # pseudo-units with the sample's variance in each resample, which might have drawn equal units only
BLOCK = 2**22  # resampled units held at once
Array = NDArray[np.float64]
Rewards = Sequence[float | None]
Margins = TypeVar("Margins", Array, "Tensor")


def share_interval(units: Sequence[float], low: float = 0.0, high: float = 1.0, groups: Sequence[int] | None = None) -> Estimate:
    """Mean of units that lie between `low` and `high`, such as wins with ties as one half, and its 95% interval.

    Units of one of `groups`, such as pairs of one prompt, are not independent of each other: the interval is then over groups.

    Raises:
        ValueError: when a number is not finite.
    """
    numbers = _finite(units)
    shares = (numbers - low) / (high - low)
    lower, upper = share_bounds(shares) if groups is None else _grouped_share_bounds(*_sums(shares, groups))
    return Estimate(float(numbers.mean()), (low + (high - low) * float(lower), low + (high - low) * float(upper)))


def _sums(numbers: Array, groups: Sequence[int]) -> tuple[Array, Array]:
    """Per-group sums and counts, both [groups]."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(place, numbers).astype(np.float64), np.bincount(place).astype(np.float64)


def share_bounds(units: Array) -> tuple[Array, Array]:
    """Ends of the interval of the mean of `units` [..., n] between 0 and 1, each [...].

    Two units of 0 and two of 1 are added before mean and standard error are taken (Agresti and Coull 1998, "Approximate is better
    than exact"), with the quantile of Student's t. So 8 wins of 8 do not exclude a loss, and ties narrow the interval.
    """
    n = units.shape[-1] + 2 * PSEUDO
    mean = (units.sum(-1) + PSEUDO) / n
    variance = ((units**2).sum(-1) + PSEUDO) / n - mean**2
    reach = student_t(n - 1) * np.sqrt(np.maximum(variance, 0) / (n - 1))
    return np.maximum(mean - reach, 0), np.minimum(mean + reach, 1)


def _grouped_share_bounds(won: Array, units: Array) -> tuple[float, float]:
    """`share_bounds` for groups of unequal size: the variance is that of a ratio of sums, and what is added are four groups.

    With one unit in each group both agree. A single group tells nothing: the interval is the whole range.
    """
    if won.size < 2:
        return 0.0, 1.0
    size = float(units.mean())
    top = np.concatenate([won, [size] * PSEUDO, [0.0] * PSEUDO])
    bottom = np.concatenate([units, [size] * 2 * PSEUDO])
    n, mean = top.size, float(top.sum() / bottom.sum())
    error = math.sqrt(float(((top - mean * bottom) ** 2).sum()) * n / (n - 1)) / float(bottom.sum())
    reach = student_t(n - 1) * error
    return max(mean - reach, 0.0), min(mean + reach, 1.0)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float] | None = None,
    samples: int = 1,
    groups: Sequence[int] | None = None,
) -> Estimate:
    """sum(numerators) / sum(denominators) and its 95% interval over the n units (prompts, pairs); without denominators, the mean.

    Units that compare two policies on one prompt make the interval paired. A unit has `samples` consecutive numbers: answers to
    one prompt are not independent of each other, so that prompts are what is resampled; where prompts have different numbers of
    units, `groups` says which units share a prompt. One unit tells nothing about the spread: its interval is infinite.

    Raises:
        ValueError: when a number is not finite.
    """
    numbers = _finite(numerators)
    parts = np.ones_like(numbers) if denominators is None else _finite(denominators)
    if groups is None:
        top, bottom = (each.reshape(-1, samples).sum(1) for each in (numbers, parts))
    else:
        top, bottom = (_sums(each, groups)[0] for each in (numbers, parts))
    low, high = ratio_bounds(top, bottom)
    return Estimate(float(top.sum() / bottom.sum()), (float(low), float(high)))


def ratio_bounds(top: Array, bottom: Array) -> tuple[Array, Array]:
    """Ends of the interval of sum(top) / sum(bottom), both [..., n], each [...]; `bottom` is positive.

    The studentised bootstrap (Hall 1988, "Theoretical comparison of bootstrap confidence intervals"), in which a skewed sample
    reaches further on its long side; nowhere nearer than Student's t.
    """
    n, value = top.shape[-1], top.sum(-1) / bottom.sum(-1)
    if n < 2:
        return np.full_like(value, -np.inf), np.full_like(value, np.inf)
    rest = top - value[..., None] * bottom
    rest[np.abs(rest) <= 1e-12 * np.abs(top).max(-1, keepdims=True)] = 0  # rounding is no spread
    spread = np.sqrt((rest**2).sum(-1) / (n - 1))
    error, t = spread / (math.sqrt(n) * bottom.mean(-1)), student_t(n - 1)
    drawn = np.concatenate(list(_studentised(rest, bottom, spread)), -1)
    at = int(TAIL * n / (n + EXTRA) * RESAMPLES)
    drawn.partition((at, RESAMPLES - 1 - at), -1)
    low, high = np.minimum(drawn[..., at], -t), np.maximum(drawn[..., RESAMPLES - 1 - at], t)
    return value - high * error, value - low * error


def _studentised(rest: Array, bottom: Array, spread: Array) -> Iterator[Array]:
    """(R* - R) / standard error of R* for all resamples, [..., some of them] at a time; 0 where the sample has no spread."""
    n = rest.shape[-1]
    products = (rest, rest**2, bottom, rest * bottom, bottom**2)
    for weights in _resamples(n):
        off, squares, below, mixed, squared = (product @ weights.T / n for product in products)
        moved = off / below
        variance = np.maximum(squares - 2 * moved * mixed + moved**2 * squared, 0)
        least = SPREAD * (spread**2)[..., None]
        error = np.sqrt((n * variance + least) / (n * (n - 1 + SPREAD))) / below
        yield np.divide(moved, error, out=np.zeros_like(moved), where=error > 0)


def _resamples(n: int) -> Iterator[Array]:
    """How often each of n units is drawn in each resample, [resamples, n], in blocks; fixed for every n."""
    drawn = np.random.default_rng(0)
    size = max(1, min(RESAMPLES, BLOCK // n))
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        units = drawn.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(units.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def student_t(freedom: int) -> float:
    """The 97.5% quantile of Student's t: exact for 1 and 2 degrees of freedom, else to 0.2% (Abramowitz and Stegun 26.7.5)."""
    if freedom < 3:
        return {1: math.tan(math.pi * (0.5 - TAIL)), 2: (1 - 2 * TAIL) / math.sqrt(2 * TAIL * (1 - TAIL))}[freedom]
    z = NormalDist().inv_cdf(1 - TAIL)
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))


def win_rate(candidate: Rewards, opponent: Rewards, samples: int = 1) -> Estimate:
    """Share of prompts on which the candidate's reward is higher, ties counting half, with its interval over prompts.

    Of `samples` consecutive answers to a prompt, each of the candidate's meets each of the opponent's. Prompts without a
    comparison are left out.

    Raises:
        ValueError: when a reward is not finite, or no prompt has a comparison.
    """
    return share_interval(judged(prompt_wins(candidate, opponent, samples)).tolist())


def prompt_wins(candidate: Rewards, opponent: Rewards, samples: int = 1) -> Array:
    """[prompts] share of a prompt's comparisons that the candidate wins; NaN where none has a reward on both sides.

    Raises:
        ValueError: when a reward is not finite; None is none.
    """
    ours, theirs = (_or_nan(rewards).reshape(-1, samples) for rewards in (candidate, opponent))
    margins = ours[:, :, None] - theirs[:, None, :]
    return _means(np.where(np.isnan(margins), np.nan, wins(margins)).reshape(len(ours), -1))


def mean_of_samples(shares: Rewards, samples: int = 1) -> Array:
    """[prompts] mean over the `samples` consecutive numbers of a prompt that are there; NaN where none is."""
    return _means(_or_nan(shares).reshape(-1, samples))


def judged(shares: Array) -> Array:
    """Those that are there.

    Raises:
        ValueError: when none is.
    """
    there = shares[~np.isnan(shares)]
    if not there.size:
        raise ValueError(f"of {shares.size} comparisons none was judged")
    return there


def _means(numbers: Array) -> Array:
    """[rows] mean of what is no NaN."""
    there = ~np.isnan(numbers)
    total, count = np.where(there, numbers, 0.0).sum(1), there.sum(1)
    means: Array = np.divide(total, count, out=np.full(len(numbers), np.nan), where=count > 0)
    return means


def _or_nan(rewards: Rewards) -> Array:
    given = [math.nan if reward is None else float(reward) for reward in rewards]
    _finite([number for number, reward in zip(given, rewards, strict=True) if reward is not None])
    return np.asarray(given, np.float64)


def wins(margins: Margins) -> Margins:
    """1 where a margin is positive, 1/2 where it is 0, a tie, and 0 where it is negative; of the same shape."""
    shares: Margins = (margins > 0) + 0.5 * (margins == 0)
    return shares


def _finite(numbers: Sequence[float]) -> Array:
    given = np.asarray(numbers, np.float64)
    if not np.isfinite(given).all():
        raise ValueError(f"number {int(np.flatnonzero(~np.isfinite(given))[0])} of {len(given)} is not finite")
    return given
