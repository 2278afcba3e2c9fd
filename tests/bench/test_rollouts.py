"""`python -m bench rollouts` from the command line, and its ratios by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench import rollouts


def test_ratios_by_hand():
    """Ours: 10 + 20 tokens, each repeat in its faster round 1 + 2 s. transformers: 30 tokens in 4 + 8 s, 24 of processor time.

    30 / 3 = 10 against 30 / 12 = 2.5 tokens a second; of four greedy tokens three agree.
    """

    def process(times, cpu: float, peak: float, greedy) -> dict:
        repeats = [{"tokens": n, "seconds": s, "cpu_seconds": cpu * s} for n, s in zip((10, 20), times, strict=True)]
        return {"full_length": repeats, "with_eos": repeats, "peak_gb": peak, "greedy": greedy}

    measured = {
        "ours": [process((1.0, 5.0), 1.0, 0.5, [[1, 2], [3, 4]]), process((3.0, 2.0), 1.0, 0.6, [[1, 2], [3, 4]])],
        "transformers": [process((4.0, 8.0), 2.0, 1.2, [[1, 2], [3, 5]])],
    }
    result = rollouts.assemble(measured)
    assert result["sides"]["ours"]["full_length"]["per_second"] == pytest.approx(10)
    assert result["ratios"]["times_faster_with_eos"] == pytest.approx(4)
    assert result["ratios"]["times_less_cpu_full_length"] == pytest.approx(8)
    assert result["ratios"]["memory_share"] == pytest.approx(0.5)
    assert result["greedy_agreement"] == 0.75


def test_both_sides_run_and_agree():
    command = [sys.executable, "-m", "bench", "rollouts", "--vocab", "1100", "--shape", "tiny", "--prompts", "5", "--tokens", "9",
               "--repeats", "1", "--rounds", "1", "--json"]  # fmt: skip
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["greedy_agreement"] > rollouts.AGREEMENT
    assert result["sides"]["transformers"]["with_eos"]["per_second"] > 0


def test_a_vocabulary_smaller_than_the_prompts_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        rollouts.main(["--vocab", "10"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("--vocab")
