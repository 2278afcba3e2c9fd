"""The chain with two training processes through the real command line: what they report, store and train."""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_with_two_processes_ends_like_a_run_with_one(strategy, finished, again, copy):
    """Data is reused. The order of sums differs, which 100 and more steps of each stage amplify: to 1e-2 of a loss."""
    words = ["compute.num_processes=2", f"compute.strategy={strategy}", "registry=null"]
    run = again(copy, *(word for each in words for word in ("--set", each)))
    assert run.process.returncode == 0, run.process.stderr
    assert run.built == ["pretrain", "sft", "align", "evaluate"]
    alone = {stage.name: stage for stage in finished.report.stages}
    for stage in run.report.stages:
        if stage.name in {"pretrain", "sft", "align"}:
            steps = int(stage.metrics["steps"])
            assert steps == alone[stage.name].metrics["steps"]
            assert stage.metrics["validation_loss"] == pytest.approx(alone[stage.name].metrics["validation_loss"], rel=1e-2)
            # What the workers reported was passed on.
            assert f"{stage.name} training {steps} of {steps} in 0:" in run.process.stderr
