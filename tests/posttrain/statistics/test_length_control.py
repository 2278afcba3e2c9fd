"""Length-controlled win rates: against the raw rate, against maximum likelihood by search, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.statistics.intervals import share_interval
from posttrain.statistics.length_control import length_controlled


def test_answers_of_equal_length_have_the_raw_win_rate():
    won = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert length_controlled(won, [3.0] * 8).value == pytest.approx(np.mean(won), abs=1e-6)


def test_wins_that_length_explains_are_none_at_equal_length():
    """Longer answers win 80% of the time and shorter ones 20%; four in five answers are longer."""
    longer, won = [], []
    for sign, count in ((1, 400), (-1, 100)):
        for index in range(count):
            longer.append(20.0 * sign)
            won.append(float((index % 5 < 4) == (sign > 0)))
    raw, controlled = share_interval(won), length_controlled(won, longer)
    assert raw.value == pytest.approx(0.68)
    assert raw.low > 0.6
    assert controlled.value < raw.value
    assert controlled.low < 0.5 < controlled.high


def test_the_fit_is_the_maximum_of_the_penalised_likelihood():
    """By search over a fine grid of both coefficients."""
    rng = np.random.default_rng(0)
    longer = rng.normal(5, 30, 60)
    won = (rng.random(60) < 0.6).astype(float)
    effect = np.tanh(longer / longer.std())
    a, b = np.meshgrid(np.linspace(-2, 2, 801), np.linspace(-3, 3, 1201), indexing="ij")
    total = np.zeros_like(a)
    for x, w in zip(effect, won, strict=True):
        odds = a + b * x
        total += w * odds - np.log1p(np.exp(odds))
    best = a.ravel()[(total - b**2 / 2).argmax()]
    assert length_controlled(won.tolist(), longer.tolist()).value == pytest.approx(1 / (1 + np.exp(-best)), abs=2e-3)


@pytest.mark.parametrize("n", [8, 64])
@pytest.mark.parametrize(("odds", "slope"), [(0.0, 0.0), (2.2, 1.0)])
def test_the_interval_holds_its_level(n, odds, slope):
    """1,000 draws: .92 is four standard errors below .95, and 20,000 draws at 64 and even odds gave .956."""
    rng, share, held = np.random.default_rng(n), 1 / (1 + np.exp(-odds)), 0
    for _ in range(1000):
        longer = rng.normal(10 * slope, 20, n)
        chance = 1 / (1 + np.exp(-odds - slope * np.tanh(longer / longer.std())))
        estimate = length_controlled((rng.random(n) < chance).astype(float), longer)
        held += estimate.low <= share <= estimate.high
    assert held / 1000 >= 0.92


def test_all_won_leaves_room_for_a_loss():
    estimate = length_controlled([1.0] * 8, [1.0, -1.0] * 4)
    assert estimate.value > 0.99
    assert 0.5 < estimate.low < 0.9
    assert estimate.high == 1
