"""The table of GAE, RLOO and GRPO: equal samples, equal time and intervals by hand, and a short run of the long chains."""

from __future__ import annotations

import math

import pytest

from bench import estimators, estimators_chain
from bench.estimators_reviews import run
from schemas.errors import Refusal

QUICK = [(10.0, 0.1, 0.0), (20.0, 0.5, 0.0)]
SLOW = [(10.0, 0.1, 0.2), (20.0, 0.3, 0.3), (40.0, 0.7, 0.4)]


def test_equal_time_is_that_of_the_method_which_needs_least():
    """At 20 seconds the slow one has 0.3, at the end 0.7; seeds that agree leave an interval of no width."""
    quick, slow = estimators.table({"quick": [QUICK, QUICK], "slow": [SLOW, SLOW]})
    assert (quick["equal samples"], quick["equal time"]) == ((0.5, 0.0), (0.5, 0.0))
    assert (slow["equal samples"], slow["equal time"], slow["explained"]) == ((0.7, 0.0), (0.3, 0.0), (0.4, 0.0))
    assert (slow["cpu seconds"], slow["start"]) == (40.0, 0.1)
    assert "| slow | 40 | 0.100 | 0.700 ± 0.000 | 0.300 ± 0.000 | 0.400 ± 0.000 |" in estimators.markdown("chain", [quick, slow])


def test_the_interval_is_students():
    """0, 1, 2: a standard deviation of 1, 4.303 of its errors at two degrees of freedom."""
    mean, reach = estimators.interval([0.0, 1.0, 2.0])
    assert (mean, reach) == (1.0, pytest.approx(4.303 / math.sqrt(3), rel=1e-3))


@pytest.mark.parametrize("method", ["gae", "grpo"])
def test_a_chain_is_200_tokens_long_and_its_curve_is_read(tmp_path, method, monkeypatch):
    monkeypatch.setitem(estimators_chain.SECTION, "rollouts", 8)
    monkeypatch.setitem(estimators_chain.SECTION, "minibatches", 1)
    curve = estimators_chain.run(estimators.METHODS[method], 0, 1, tmp_path, None)
    ((seconds, score, explained),) = curve
    assert seconds > 0
    assert 0 < score < 1
    assert explained == pytest.approx(0, abs=0.05)
    assert '"response_tokens": 200.0' in (tmp_path / "curve.jsonl").read_text()


def test_reviews_without_a_finished_run_are_refused(tmp_path):
    with pytest.raises(Refusal) as refusal:
        run({}, 0, 1, tmp_path, str(tmp_path))
    assert refusal.value.where == "--store"
