"""A GGUF file and 400 pairs with every default: the run is what `check` said, and what it registers is better and loads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NOISE = 1.5  # on a machine that others use, beyond the range that `check` gives


@pytest.fixture(scope="module")
def aligned(posttrain, recipe, rows, gguf, tmp_path_factory) -> SimpleNamespace:
    """What `check` predicted and what the run measured. `check` is called twice: the first call converts the file."""
    folder = tmp_path_factory.mktemp("aligned")
    gates = {"preference_accuracy": {"lower_bound_above": 0.5}, "validation_loss_falls": {"min": 0}}
    path = recipe(
        folder, "aligned", {"source": "gguf", "path": str(gguf)}, rows(folder, 400, seed=0),
        alignment={"algorithm": "dpo", "batch_size": 8, "max_length": 256, "validations": 2},
        evaluation={"prompts": 16, "max_new_tokens": 32, "gates": gates},
        registry={"model": "aligned", "promote_on": "preference_accuracy"},
    )  # fmt: skip
    posttrain("check", path)
    predicted = posttrain("check", path).document
    return SimpleNamespace(predicted=predicted, **vars(posttrain("run", path)))


def test_it_registers_a_champion_that_answers_and_prefers_what_was_chosen(aligned, answers, tmp_path):
    """No learning rate is given: the default's docstring says 5e-5 for LoRA at 100M parameters."""
    align, evaluated = (aligned.stages[name].metrics for name in ("align", "evaluate"))
    print(f"  {evaluated}")
    assert aligned.predicted["learning_rates"]["align"] == pytest.approx(5e-5, rel=0.3)
    assert align["validation_loss"] < align["validation_loss_start"]
    assert evaluated["preference_accuracy_low"] > 0.5
    assert [gate.passed for gate in aligned.report.gates] == [True, True]
    assert (aligned.report.model.alias, aligned.report.model.version) == ("champion", "1")
    assert answers(aligned.report, tmp_path).keys() == {"pyfunc", "checkpoint", "adapter"}


def test_the_peak_of_every_stage_is_within_a_quarter_of_what_was_predicted(aligned):
    """FORECAST: loading, and what lies beside the model, counts."""
    peaks = {stage: (found["peak_memory_gb"], aligned.stages[stage].metrics["peak_memory_gb"])
             for stage, found in aligned.predicted["memory"].items()}  # fmt: skip
    print(f"  GB, predicted and measured: {peaks}")
    assert peaks.keys() == {"align", "evaluate"}
    assert all(abs(predicted - measured) <= 0.25 * measured for predicted, measured in peaks.values()), peaks


def test_every_stage_takes_the_seconds_that_were_predicted(aligned):
    """FORECAST."""
    predicted = {stage: found for stage, found in aligned.predicted["seconds"].items() if stage != "total"}
    took = {stage: (found["low"], aligned.stages[stage].seconds, found["high"]) for stage, found in predicted.items()}
    print(f"  seconds, low, measured and high: {took}")
    assert took.keys() == {"align", "evaluate", "register"}
    assert all(low / NOISE <= seconds <= high * NOISE for low, seconds, high in took.values()), took
