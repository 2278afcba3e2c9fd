"""Ten steps of ours and of TRL on the same weights, rows and optimizer have equal losses."""

from __future__ import annotations

import pytest

from bench.sides import TRL
from bench.training import compare
from bench.workload import Workload


@pytest.mark.slow
@pytest.mark.skipif(not TRL.exists(), reason="the peer's environment is not built: make peers")
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_losses_equal_those_of_trl_step_by_step(kind, full):
    """To 1e-5 relative, at a learning rate that moves the loss: a wrong gradient would show in the second step."""
    rate = 3e-3 if full else 3e-2
    workload = Workload(kind=kind, vocabulary=2000, full=full, steps=10, shape="tiny", device="cpu", learning_rate=rate, passes=5)
    sides = compare(workload, rounds=1, threads=1, before=None)["sides"]
    ours = sides["ours"]["losses"]
    assert len(ours) == 10
    assert abs(ours[-1] - ours[0]) > 1e-2
    for peer in ("trl_defaults", "trl_best"):
        assert sides[peer]["losses"] == pytest.approx(ours, rel=1e-5)
