"""What goes wrong with a real checkpoint: a kill in reference scoring, a learning rate far too high, an export that differs."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[3]
SCORED = re.compile(r"reference log-probabilities of (\d+) pairs: (\d+) from the cache")
MODULE = "model.layers.17.mlp.up_proj"

# Runs when an interpreter starts: the process that reloads an export finds one matrix of the checkpoint with its signs flipped.
FLIP = f"""
import sys

if "posttrain.checkpoints.round_trip" in sys.orig_argv:
    from safetensors.torch import load_file, save_file

    path = f"{{sys.orig_argv[-1]}}/checkpoint/model.safetensors"
    tensors = load_file(path)
    tensors["{MODULE}.weight"].neg_()
    save_file(tensors, path, {{"format": "pt"}})
"""


@pytest.fixture(scope="module")
def resumed(posttrain, recipe, rows, local, helpers, words_of, variables, store, tmp_path_factory) -> SimpleNamespace:
    """A run killed once the first reference scores were saved, and then the same command; `path` is its recipe."""
    folder = tmp_path_factory.mktemp("trouble")
    path = recipe(folder, "trouble", local, rows(folder, 160, seed=3))
    saved, before = store / "cache" / "reference-logprobs", time.monotonic()
    old = set(saved.glob("*.safetensors"))
    process = helpers.start(*words_of("run", path), cwd=folder, **variables)
    while not set(saved.glob("*.safetensors")) - old:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < before + 600
        time.sleep(0.01)
    helpers.kill_group(process)
    said = process.communicate()[1]
    print(f"killed in reference scoring after {time.monotonic() - before:.0f} s")
    assert not SCORED.search(said), "all pairs were scored before the kill"
    return SimpleNamespace(path=path, **vars(posttrain("run", path)))


def test_a_run_killed_in_reference_scoring_goes_on_behind_the_last_saved_score(resumed):
    pairs, found = map(int, SCORED.search(resumed.said).groups())
    print(f"  {found} of {pairs} pairs from the cache")
    assert 0 < found < pairs
    assert resumed.report.model.alias == "champion"


def test_a_learning_rate_100_times_too_high_is_warned_of_and_the_best_is_kept(posttrain, recipe, rows, local, tmp_path):
    """5e-5 is the default. Nothing can be learnt from these pairs: the better the others are remembered, the worse these look.

    (Where one style is always chosen, even this rate only separates the two further.)
    """
    path = recipe(tmp_path, "high", local, rows(tmp_path, 80, seed=4, shown=False))
    run = posttrain("run", path, "--set", "alignment.learning_rate=5.0e-3")
    metrics = run.stages["align"].metrics
    print(f"  {metrics}")
    assert metrics["validation_loss"] <= metrics["validation_loss_start"] < metrics["validation_loss_last"]
    (rose,) = (warning for warning in run.report.warnings if "held-out loss" in warning)
    page, said = run.report.report.read_text("utf-8"), " ".join(run.said.split())
    assert "align: held-out loss rose" in rose
    assert all(rose in place for place in (page, said))


def test_an_export_that_differs_is_refused_and_the_same_command_registers(resumed, posttrain, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FLIP)
    words = ("--set", "registry.model=flipped")
    refused = posttrain("run", resumed.path, *words, code=2, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (refused.report.status, refused.report.error.stage) == ("failed", "register")
    assert f"first at {MODULE}" in refused.report.error.message
    assert [stage.name for stage in refused.report.stages] == ["validate", "align", "evaluate"]
    assert "the run failed in register" in refused.report.report.read_text("utf-8")
    assert "Traceback" not in refused.said

    mended = posttrain("run", resumed.path, *words)
    assert [stage.name for stage in mended.report.stages if not stage.reused] == ["register"]
    assert mended.report.model.name == "flipped"
