"""The benchmarks run from the command line and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def test_head_prints_both_sides_with_equal_losses_and_the_ratios():
    command = [sys.executable, "-m", "bench", "head", "--vocab", "500", "--repeats", "1", "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["vocabulary"] == 500
    assert result["ours"]["loss"] == pytest.approx(result["plain"]["loss"], abs=1e-5)
    assert result["times_faster"] == pytest.approx(result["plain"]["seconds"] / result["ours"]["seconds"])
    assert result["memory_share"] == pytest.approx(result["ours"]["peak_gb"] / result["plain"]["peak_gb"])


def test_an_unknown_benchmark_is_refused_with_the_list():
    done = subprocess.run([sys.executable, "-m", "bench", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "python -m bench head" in done.stdout
