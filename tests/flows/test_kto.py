"""KTO through the real command line: on pairs taken apart and on feedback, to the report; and that the quickstart learns."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from posttrain.data.feedback import unpaired
from schemas.results import RunReport

RECIPES = Path(__file__).resolve().parents[2] / "deployments" / "recipes"
KTO = ["--set", "alignment.loss=kto", "--set", "registry=null"]


def feedback_of(pairs: Path, out: Path) -> Path:
    """Both sides of clean pairs as rows with `prompt`, `completion` and `label`."""
    table = unpaired(pl.read_parquet(pairs, glob=False))
    prompt, answer = (pl.col(name).list.last().struct.field("content").alias(name) for name in ("prompt", "completion"))
    table.select(prompt, answer, "label").write_ndjson(out)
    return out


def folder_of(store: Path, report: RunReport, stage: str) -> Path:
    (key,) = (each.key for each in report.stages if each.name == stage)
    return store / stage / key


@pytest.fixture
def on_feedback(again, copy, finished, tmp_path):
    """A run on feedback made of the tiny recipe's pairs."""
    pairs = folder_of(finished.store, finished.report, "validate") / "preferences.parquet"
    path = feedback_of(pairs, tmp_path / "feedback.jsonl")
    words = ["--set", "data.preferences=null", "--set", f"data.feedback={path}", "--set", "data.checks.conflict_fail=1"]
    return again(copy, *KTO, *words), copy


def test_pairs_are_taken_apart_where_there_is_no_feedback(again, copy):
    run = again(copy, *KTO)
    assert run.process.returncode == 0, run.process.stderr
    assert run.built == ["align", "evaluate"]
    assert "kto: " in run.process.stderr
    (align,) = (stage for stage in run.report.stages if stage.name == "align")
    (evaluate,) = (stage for stage in run.report.stages if stage.name == "evaluate")
    assert align.metrics["validation_loss_start"] == 0.5
    assert {"win_rate_vs_sft", "preference_accuracy"} <= evaluate.metrics.keys()
    assert "feedback_auc" not in evaluate.metrics


def test_feedback_is_trained_on_and_its_held_out_part_measured(on_feedback):
    run, store = on_feedback
    assert run.process.returncode == 0, run.process.stderr
    assert {"validate", "align", "evaluate"} <= set(run.built)
    (evaluate,) = (stage for stage in run.report.stages if stage.name == "evaluate")
    assert (
        0
        <= evaluate.metrics["feedback_auc_low"]
        <= evaluate.metrics["feedback_auc"]
        <= evaluate.metrics["feedback_auc_high"]
        <= 1
    )
    assert "preference_accuracy" not in evaluate.metrics
    summary = json.loads((folder_of(store, run.report, "validate") / "summary.json").read_text())["feedback"]
    assert {check["check"] for check in summary["checks"]} >= {"one_label", "length_auc", "conflict"}
    page = Path(run.report.report).read_text(encoding="utf-8")
    assert "label accuracy" in page
    assert "Feedback: from input to training" in page


@pytest.mark.slow
def test_the_quickstart_learns_from_pairs_taken_apart(cli, tmp_path):
    """The interval of its win rate on the ground truth is clear of one half."""
    done = cli("run", RECIPES / "quickstart-kto.yaml", "--store", tmp_path / "store", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (evaluate,) = (stage for stage in RunReport.model_validate_json(done.stdout).stages if stage.name == "evaluate")
    assert evaluate.metrics["win_rate_vs_sft_low"] > 0.5
