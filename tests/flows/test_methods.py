"""Every PEFT method aligns, is evaluated and, where it merges, is registered, through the real command line."""

from __future__ import annotations

import pytest

from posttrain.peft.methods import METHODS

ALWAYS = ("bitfit", "prompt_tuning")  # one whose delta is exported, and one that takes a layout of its own


@pytest.mark.parametrize(
    "method", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "lora"]
)
def test_a_method_goes_through_the_chain(copy, again, method):
    """The finished run's SFT is reused. Exit code 3 is a finished run whose candidate did not beat the champion."""
    registry = ["--set", "registry=null"] if not METHODS[method].merges else []
    run = again(copy, "--set", f"alignment.peft={{method: {method}}}", *registry)
    assert run.process.returncode in (0, 3), run.process.stderr
    assert run.built == [stage for stage in ("align", "evaluate", "register") if stage != "register" or not registry]
    numbers = {stage.name: stage.metrics for stage in run.report.stages}
    assert 0 < numbers["align"]["trainable_parameters"] <= numbers["align"]["parameters"]
    assert (
        abs(numbers["evaluate"]["kl_per_token"]) > 1e-6
    )  # the candidate is another policy; an estimate on 8 prompts has any sign


def test_a_method_that_cannot_be_merged_is_not_registered(copy, again):
    """Refused before anything trains, since consumers load a plain checkpoint."""
    run = again(copy, "--set", "alignment.peft={method: bottleneck}")
    assert run.process.returncode == 2
    assert "alignment.peft.method: found bottleneck, which cannot be merged" in run.process.stderr
