"""Iterations of PPO, ours and TRL's: what is refused, that our side measures, and that the sides have the same policy."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from bench import ppo, sides
from bench.workload import NEW_TOKENS, Workload

TINY = Workload(kind="ppo", vocabulary=1100, full=False, steps=2, shape="tiny", device="cpu", learning_rate=1e-5)


@pytest.mark.parametrize(("words", "said"), [(["--vocab", "10"], "--vocab"), (["--steps", "1"], "--steps")])
def test_numbers_that_make_no_sense_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        ppo.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_peer_that_is_not_installed_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sides, "TRL_PPO", sides.ROOT / ".bench" / "no-such-peer")
    with pytest.raises(SystemExit) as stop:
        ppo.main([])
    assert stop.value.code == 2
    assert "make peers" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("value_model", ["trunk", "adapter"])
def test_our_side_measures_every_iteration(value_model, tmp_path):
    """Random weights say nearly the same of every token: the entropy is just below ln 1,100 = 7.003."""
    TINY.write(tmp_path)
    sides.call([sys.executable, "-m", "bench.workload", str(tmp_path)])
    measured = sides.run([sys.executable, "-m", "bench.ppo_ours", "--setting", value_model], tmp_path, 1)
    assert len(measured.seconds) == len(measured.cpu_seconds) == len(measured.losses) == 2
    assert min(measured.seconds + measured.cpu_seconds) > 0
    assert math.log(1100) - 0.1 < measured.facts["entropy"] < math.log(1100)
    assert 0.9 * NEW_TOKENS < measured.facts["response_tokens"] <= NEW_TOKENS


@pytest.mark.slow
@pytest.mark.skipif(not Path(sides.TRL_PPO).exists(), reason="the peer's environment is not built: make peers")
def test_all_sides_have_the_same_policy():
    result = ppo.compare(TINY, rounds=1, threads=1)
    assert list(result["sides"]) == ["ours", "ours_critic", "trl_defaults", "trl_best"]
    entropies = [side["facts"]["entropy"] for side in result["sides"].values()]
    assert max(entropies) == pytest.approx(min(entropies), rel=ppo.ENTROPY_TOLERANCE)
    assert result["sides"]["trl_best"]["facts"]["ratio"] == pytest.approx(1, abs=1e-3)
