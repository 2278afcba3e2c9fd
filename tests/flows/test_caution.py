"""A learning rate 100 times too high: every place where a person looks says that the held-out loss rose, and what to do."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flows.console import show_report
from schemas.results import RunReport

RATE = "alignment.learning_rate=0.5"


@pytest.fixture
def warned(copy, again, client_of):
    """The run with these words, after it was seen that terminal, page and MLflow say what its JSON says."""

    def run(*words: str):
        done = again(
            copy, "--set", RATE, "--set", "alignment.max_grad_norm=1000", *(part for word in words for part in ("--set", word))
        )
        page = done.report.report.read_text("utf-8")
        tag = client_of(copy).get_run(done.report.run_id).data.tags["warnings"]
        rose = [warning for warning in done.report.warnings if "held-out loss" in warning]
        said = " ".join(done.process.stderr.split())  # where there is no terminal, lines are broken at 80 characters
        assert all(warning in place for warning in rose for place in (tag, page, said))
        return done, rose, next(stage.metrics for stage in done.report.stages if stage.name == "align")

    return run


def test_the_printed_table_ends_with_the_warnings():
    text = StringIO()
    report = RunReport(
        run_id="a",
        seconds=1,
        stages=(),
        gates=(),
        model=None,
        report=Path("r"),
        promotion="promoted",
        warnings=("one", "two [b]"),
    )
    show_report(report, Console(file=text))
    assert "warning: one\nwarning: two [b]\npromoted\n" in text.getvalue()


@pytest.mark.slow
def test_the_last_weights_are_warned_of_and_the_best_are_kept_by_default(warned):
    """The tiny recipe has held-out pairs, so that null keeps the best; the gate that asks for a fall holds back the other run."""
    gate = "evaluation.gates.validation_loss_falls.min=0"
    done, (rose,), metrics = warned("alignment.keep=last", gate)
    start, end = metrics["validation_loss_start"], metrics["validation_loss"]
    assert end > start
    assert rose == f"align: held-out loss rose from {start:.3f} to {end:.3f}: lower the learning rate or use keep: best"
    assert done.process.returncode == 3
    assert f"gate validation_loss_falls: measured {start - end:.4g}" in done.report.promotion

    done, (rose,), metrics = warned(gate)
    assert done.process.returncode == 0, done.process.stderr
    assert metrics["validation_loss"] <= metrics["validation_loss_start"] < metrics["validation_loss_last"]
    assert "use keep: best" not in rose
    assert [gate.passed for gate in done.report.gates] == [True]
