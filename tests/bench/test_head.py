"""The benchmarks run from the command line and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def test_head_prints_both_sides_with_equal_losses_and_the_ratios_in_both_arithmetics():
    command = [sys.executable, "-m", "bench", "head", "--vocab", "500", "--repeats", "1", "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["vocabulary"] == 500
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 1e-2)):
        row = result[dtype]
        assert row["ours"]["loss"] == pytest.approx(row["plain"]["loss"], abs=tolerance)
        assert row["times_faster"] == pytest.approx(row["plain"]["seconds"] / row["ours"]["seconds"])
        assert row["memory_share"] == pytest.approx(row["ours"]["peak_gb"] / row["plain"]["peak_gb"])
    exact, half = (result[dtype]["ours"] for dtype in ("float32", "bfloat16"))
    assert half["loss"] != exact["loss"], "the operands were rounded"
    assert result["bfloat16"]["against_fp32"] == pytest.approx(half["cpu_seconds"] / exact["cpu_seconds"])


def test_an_unknown_benchmark_is_refused_with_the_list():
    done = subprocess.run([sys.executable, "-m", "bench", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "python -m bench head" in done.stdout
