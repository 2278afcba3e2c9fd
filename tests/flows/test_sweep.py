"""`posttrain sweep` on the tiny recipe: what it builds once, prints, draws and refuses; an interrupted one goes on."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from schemas.sweep import SweepReport

SHARED = ("validate", "filter", "pretrain", "sft")
LINES = [
    {"label": "DPO", "recipe": "tiny.yaml", "over": {"field": "alignment.beta", "values": [0.05, 0.5]}},
    {
        "label": "IPO, three epochs", "recipe": "tiny.yaml", "over": {"field": "alignment.beta", "values": [0.2]},
        "set": {
            "alignment.loss": "ipo", "alignment.epochs": 3, "evaluation.gates": {"validation_loss_falls": {"min": 100}}
        },
    },
]  # fmt: skip


@pytest.fixture
def sweep_file(tiny):
    """Write a sweep beside the tiny recipe."""

    def write(name: str, lines: list[dict]) -> Path:
        path = tiny.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "lines": lines}))
        return path

    return write


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_what_its_runs_share_is_built_once(
    sweep_file, tiny, start_warm, warm, helpers, tmp_path
):
    store = tmp_path / "store"
    words = ("sweep", sweep_file("betas", LINES), "--store", store, "--json")
    interrupted = start_warm(*words, cwd=tiny.folder)
    _wait_for_a_finished_run(store)
    helpers.kill_group(interrupted)
    interrupted.communicate()

    done = warm(*words, cwd=tiny.folder)
    assert done.returncode == 0, done.stderr
    report = SweepReport.model_validate_json(done.stdout)
    built = {(point.line, point.value): [stage.name for stage in point.run.stages if not stage.reused] for point in report.points}
    assert built == {("DPO", 0.05): [], ("DPO", 0.5): ["align", "evaluate"], ("IPO, three epochs", 0.2): ["align", "evaluate"]}
    assert {stage.name for point in report.points for stage in point.run.stages} == {*SHARED, "align", "evaluate"}
    assert [len(list((store / stage).glob("*/result.json"))) for stage in SHARED] == [1, 1, 1, 1]
    assert json.loads((store / "sweeps" / "betas" / "result.json").read_text()) == json.loads(done.stdout)
    _has_the_numbers_of_its_runs(report)
    _links_to_its_runs(report)


def _wait_for_a_finished_run(store: Path) -> None:
    end = time.monotonic() + 280
    while not list(store.glob("runs/*/result.json")):
        assert time.monotonic() < end, "no run was finished"
        time.sleep(0.05)


def _has_the_numbers_of_its_runs(report: SweepReport) -> None:
    for point in report.points:
        numbers = point.run.stages[-1].metrics
        assert point.kl_per_token.value == numbers["kl_per_token"]
        assert point.reward.interval == (numbers["reward_aligned_low"], numbers["reward_aligned_high"])
        assert (point.opponent, point.win_rate.value) == ("sft", numbers["win_rate_vs_sft"])
        assert point.trained_parameters == point.run.stages[-2].metrics["trainable_parameters"] > 0
    assert len({point.kl_per_token.value for point in report.points}) == 3
    ancestors = [(each.name, each.is_reference, each.reward.value) for each in report.ancestors]
    assert ancestors == [("base", False, numbers["reward_base"]), ("sft", True, numbers["reward_sft"])]
    (gate,) = report.points[-1].run.gates
    assert not gate.passed  # and the sweep ended well


def _links_to_its_runs(report: SweepReport) -> None:
    links = re.findall(r'href="([^"#]+)"', report.report.read_text("utf-8"))
    assert [(report.report.parent / link).resolve() for link in links] == [point.run.report.resolve() for point in report.points]
    assert all(point.run.report.is_file() for point in report.points)


def test_every_recipe_is_checked_before_the_first_run(sweep_file, call, helpers, tmp_path):
    """The second line's judge is no module, which only the check of inputs sees, not that of the document."""
    lines = [LINES[0], {**LINES[1], "set": {"evaluation.judge": {"source": "function", "name": "no_such_module:f"}}}]
    done = call("sweep", sweep_file("wrong", lines), "--store", tmp_path / "store")
    assert done.code == 2, done.err
    helpers.assert_helpful(done.err, ("evaluation.judge", "no_such_module"))
    assert done.out == ""
    assert not (tmp_path / "store" / "runs").exists()


def test_a_field_that_the_recipe_does_not_have_is_refused_with_its_line(sweep_file, call, helpers, tmp_path):
    line = {**LINES[0], "over": {"field": "alignment.betta", "values": [0.1]}}
    done = call("sweep", sweep_file("typo", [line]), "--store", tmp_path / "store")
    assert done.code == 2
    helpers.assert_helpful(done.err, ("line 'DPO' with alignment.betta=0.1: alignment.betta", "did you mean beta?"))
