"""Length-controlled win rates: the estimated win rate if both answers were equally long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.statistics.intervals import PSEUDO, Array, student_t
from schemas.estimates import Estimate

STEPS = 50  # of Newton's method, which needs about six
LARGEST = 20.0  # log-odds of a prompt that is always won


def length_controlled(won: Sequence[float], longer: Sequence[float], groups: Sequence[int] | None = None) -> Estimate:
    """The share of prompts that would be won at equal length, and its 95% interval.

    Fits P(won) = sigmoid(a + b tanh(d / s)), where d is by how much the answer is longer and s the standard deviation of d, and
    returns sigmoid(a): AlpacaEval 2 (arXiv 2404.04475 equation 3) for two models, without its term for how hard a prompt is,
    which cannot be told from one comparison each. b has the prior N(0, 1), which decides where length does not vary. The interval
    takes the variance that also holds for shares between 0 and 1 (White 1980), after two wins and two losses at equal length were
    added.

    Args:
        won: [N] shares of a prompt's comparisons that are won, ties counted half.
        longer: [N] tokens of the prompt's answers, less those of its opponent's.
        groups: [N] which comparisons are of one prompt, and so not independent of each other; None: each is of its own.
    """
    shares, effect = np.asarray(won, np.float64), _effect(np.asarray(longer, np.float64))
    of = np.unique(np.arange(shares.size) if groups is None else np.asarray(groups), return_inverse=True)[1]
    value = _sigmoid(_fit(shares, effect, of)[0][0])
    added = np.array([1.0, 0.0] * PSEUDO)
    of = np.concatenate([of, of.max() + 1 + np.arange(added.size)])
    fitted, covariance = _fit(np.concatenate([shares, added]), np.concatenate([effect, np.zeros(added.size)]), of)
    middle, error = _sigmoid(fitted[0]), float(np.sqrt(covariance[0, 0]))
    reach = student_t(int(of.max())) * error * middle * (1 - middle)
    return Estimate(value, (max(middle - reach, 0), min(middle + reach, 1)))


def _effect(longer: Array) -> Array:
    spread = longer.std()
    return np.tanh(longer / spread) if spread else np.zeros_like(longer)


def _sigmoid(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


def _fit(shares: Array, effect: Array, groups: NDArray[np.intp]) -> tuple[Array, Array]:
    """Coefficients (a, b) and their covariance [2, 2], over groups that are numbered from 0."""
    design, prior = np.stack([np.ones_like(effect), effect], 1), np.array([0.0, 1.0])
    found = np.zeros(2)
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-design @ found))
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design + np.diag(prior) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (shares - expected) - prior * found)
        found = np.clip(found + step, -LARGEST, LARGEST)
        if np.abs(step).max() < 1e-10:
            break
    number = int(groups.max()) + 1
    scores = np.zeros((number, 2))
    np.add.at(scores, groups, design * (shares - expected)[:, None])
    inverse = np.linalg.inv(curvature)
    return found, inverse @ (scores.T @ scores) @ inverse * (number / max(number - 1, 1))
