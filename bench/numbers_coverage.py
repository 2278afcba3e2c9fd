"""How often the 95% intervals of evaluation hold the true value, over simulated evaluations: the rows of `bench numbers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.statistics.intervals import ratio_bounds, share_bounds

DRAWS = 2000
UNITS = (8, 16, 64, 256)  # prompts or pairs
SHARES = (0.5, 0.66, 0.9, 0.97)
SAMPLES = 4  # answers of each policy to a prompt, all of which meet
AT_ONCE = 500  # draws of a mean that are resampled together
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]


@dataclass(frozen=True)
class Case:
    """One kind of unit, and the mean that it truly has."""

    name: str
    truth: float
    draw: Draw
    is_share: bool


def _wins(share: float) -> Case:
    return Case(f"share {share:g}", share, lambda rng, shape: (rng.random(shape) < share).astype(np.float64), True)


def _ties(won: float, tied: float) -> Case:
    """Prompts won, tied, and else lost."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        drawn = rng.random(shape)
        return np.where(drawn < won, 1.0, np.where(drawn < won + tied, 0.5, 0.0))

    return Case(f"share {won:g}, ties {tied:g}", won + tied / 2, draw, True)


def _several(share: float) -> Case:
    """`SAMPLES` answers of each policy: prompts differ in how often the candidate's beat the opponent's (uniform ± 0.5 share)."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        reach = min(share, 1 - share)
        return rng.binomial(SAMPLES**2, rng.uniform(share - reach, share + reach, shape)) / SAMPLES**2

    return Case(f"share {share:g}, samples {SAMPLES}", share, draw, True)


CASES = (
    *map(_wins, SHARES),
    _ties(0.3, 0.5), _ties(0.05, 0.9), _ties(0.02, 0.97), _ties(0.6, 0.3),
    *map(_several, SHARES),
    Case("normal rewards", 0.0, lambda rng, shape: rng.normal(size=shape), False),
    Case("exponential rewards", 1.0, lambda rng, shape: rng.exponential(size=shape), False),
    Case("lognormal rewards", float(np.exp(0.5)), lambda rng, shape: rng.lognormal(size=shape), False),
)  # fmt: skip


def intervals(case: Case, units: int, draws: int = DRAWS) -> tuple[Array, Array]:
    """Lower and upper ends, each [draws], of the intervals that evaluation would report."""
    drawn = case.draw(np.random.default_rng(units), (draws, units))
    if case.is_share:
        return share_bounds(drawn)
    parts = [ratio_bounds(part, np.ones_like(part)) for part in np.array_split(drawn, max(1, draws // AT_ONCE))]
    low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    return low, high


def table() -> list[dict[str, Any]]:
    """Coverage of the 95% intervals over simulated evaluations, 2,000 draws a row.

    By kind of unit and number of units: coverage, the chance that `lower_bound_above` passes at its limit, median width.
    """
    return list(_rows())


def _rows() -> Iterator[dict[str, Any]]:
    for case in CASES:
        for units in UNITS:
            low, high = intervals(case, units)
            yield {
                "case": case.name,
                "n": units,
                "coverage": round(float(((low <= case.truth) & (case.truth <= high)).mean()), 4),
                "passes_at_limit": round(float((low > case.truth).mean()), 4),
                "median_width": round(float(np.median(high - low)), 4),
            }


if __name__ == "__main__":
    for row in table():
        print(row)
