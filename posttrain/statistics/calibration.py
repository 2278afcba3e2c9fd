"""Calibration of a reward model: how reliable its probabilities are on held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.statistics.intervals import wins

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """One bin of confidences."""

    confidence: float
    """Mean probability that the model gave to the response that it preferred."""
    accuracy: float
    """Share of its pairs in which that response was the chosen one; ties count half."""
    pairs: int


def reliability(margins: NDArray[np.float64], bins: int = BINS) -> list[Reliability]:
    """Pairs by confidence sigmoid(|r_c - r_r|), which lies between 1/2 and 1, in equal bins; empty ones are left out.

    Args:
        margins: [N] rewards of chosen less those of rejected.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = wins(margins)
    of_bin = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    inside = [of_bin == index for index in range(bins)]
    return [Reliability(float(confidence[b].mean()), float(right[b].mean()), int(b.sum())) for b in inside if b.any()]


def expected_calibration_error(points: list[Reliability]) -> float:
    """Mean distance of accuracy from confidence, weighted by pairs (arXiv 1706.04599 equation 3)."""
    pairs = sum(point.pairs for point in points)
    return sum(point.pairs * abs(point.accuracy - point.confidence) for point in points) / pairs


def correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Pearson's coefficient; 0 where one of the two does not vary."""
    if not left.std() or not right.std():
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
