"""Every PEFT method aligns, is evaluated and is registered, through the real command line."""

from __future__ import annotations

import pytest

from posttrain.peft.methods import METHODS

ALWAYS = ("bitfit", "prompt_tuning")  # one whose delta is exported, and one that takes a layout of its own


@pytest.mark.parametrize(
    "method", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "lora"]
)
def test_a_method_goes_through_the_chain(copy, again, method):
    """The finished run's SFT is reused. Exit code 3 is a finished run whose candidate did not beat the champion."""
    run = again(copy, "--set", f"alignment.peft={{method: {method}}}")
    assert run.process.returncode in (0, 3), run.process.stderr
    assert run.built == ["align", "evaluate", "register"]
    registered = run.report.stages[-1].outputs.keys() - {"version", "alias", "promotion"}
    assert registered == expected_parts(method)
    numbers = {stage.name: stage.metrics for stage in run.report.stages}
    assert 0 < numbers["align"]["trainable_parameters"] <= numbers["align"]["parameters"]
    assert (
        abs(numbers["evaluate"]["kl_per_token"]) > 1e-6
    )  # the candidate is another policy; an estimate on 8 prompts has any sign


def expected_parts(method: str) -> set[str]:
    """What a version of this method holds: a checkpoint unless the method cannot be merged, and the adapter that was trained."""
    if method == "full":
        return {"checkpoint"}
    return {"base", "adapter"} | ({"checkpoint"} if METHODS[method].merges else set())
