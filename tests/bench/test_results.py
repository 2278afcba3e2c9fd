"""From measurements to ratios by hand, and what is refused before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench import sides, training
from bench.results import assemble, largest_difference
from bench.sides import Measured

OURS = Measured(
    losses=[0.7, 0.6, 0.5], seconds=[9.0, 1.0, 3.0], cpu_seconds=[9.0, 2.0, 2.0], reference_seconds=3.0,
    reference_cpu_seconds=6.0, peak_gb=1.0, before_training_gb=0.5, gpu_gb=None, note="ours",
)  # fmt: skip
PEER = replace(OURS, seconds=[99.0, 12.0, 12.0], cpu_seconds=[99.0, 24.0, 24.0], reference_seconds=0.0, peak_gb=4.0)


def test_ratios_by_hand():
    """The first step is dropped. Ours: median of (1, 3) is 2 s, and 3 s of reference over 3 steps is 1 s a step.

    TRL's defaults score the reference inside their 12 s: 12 / (2 + 1) = 4. Its best setting scores it before: 12 / 2 = 6.
    """
    result = assemble({"ours": [OURS], "trl_defaults": [PEER], "trl_best": [PEER]})
    assert result["ratios"]["trl_defaults"]["times_faster"] == pytest.approx(4)
    assert result["ratios"]["trl_best"]["times_faster"] == pytest.approx(6)
    assert result["ratios"]["trl_best"]["memory_share"] == pytest.approx(0.25)


def test_of_several_rounds_the_best_of_each_step_counts():
    """Steps 2 and 3 took (1, 3) and (5, 2) seconds: the best are 1 and 2, their median 1.5."""
    again = replace(OURS, seconds=[9.0, 5.0, 2.0])
    assert assemble({"ours": [OURS, again]})["sides"]["ours"]["seconds_per_step"] == 1.5


@pytest.mark.parametrize(
    ("losses", "difference"), [([0.7, 0.6, 0.52], 0.02), ([0.7, 0.6], math.inf), ([0.7, 0.6, math.nan], math.inf)]
)
def test_losses_that_differ_are_seen(losses, difference):
    assert largest_difference({"ours": [OURS], "peer": [replace(PEER, losses=losses)]}) == pytest.approx(difference)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vocab", "10"], "--vocab"),
        (["--steps", "1"], "--steps"),
        (["--rounds", "0"], "--rounds"),
        (["--passes", "2"], "--passes"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        training.dpo(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_peer_that_is_not_installed_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sides, "TRL", sides.ROOT / ".bench" / "no-such-peer")
    with pytest.raises(SystemExit) as stop:
        training.sft([])
    assert stop.value.code == 2
    assert "make peers" in capsys.readouterr().err
