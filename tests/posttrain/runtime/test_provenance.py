"""Lineage names the commit that built a result: the value, since a wrong folder would answer without one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from posttrain.runtime.provenance import environment

ROOT = Path(__file__).resolve().parents[3]


def test_a_checkout_names_its_commit():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert environment()["git_commit"] == head.stdout.strip()
