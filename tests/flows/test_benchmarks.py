"""Benchmarks and a language model as judge in a whole run: what they measure decides whether a version is registered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

TASK = {
    "task": "reviews", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "reviews.jsonl"}},
    "test_split": "test", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "word_perplexity"}],
}  # fmt: skip


@pytest.fixture
def tasks(tmp_path, finished) -> Path:
    """A task of the run's own held-out documents, on which alignment at a high rate loses."""
    kept = next((finished.store / "filter").glob("*/kept.parquet"))
    return task_of(pl.read_parquet(kept).filter(split="holdout")["text"].to_list()[:12], tmp_path / "tasks")


def task_of(texts: list[str], place: Path) -> Path:
    """A folder with the task and its documents."""
    pytest.importorskip("lm_eval")
    place.mkdir()
    (place / "reviews.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (place / "reviews.yaml").write_text(yaml.safe_dump(TASK))
    return place


def test_a_regression_on_a_benchmark_refuses_promotion_and_a_wider_gate_reuses_what_was_measured(copy, again, tasks, client_of):
    """Four passes of DPO at 5e-3 cost many nats a word; the second run asks no policy anything."""

    def run(gate: dict):
        asked = [{"task": "reviews", "folder": str(tasks), "gate": gate}]
        return again(copy, "--set", f"evaluation.benchmarks={json.dumps(asked)}", "--set", "registry.model=gated")

    refused = run({"max_drop": 0.01})
    assert refused.process.returncode == 3, refused.process.stderr
    (gate,) = refused.report.gates
    assert (gate.name, gate.limit, gate.passed) == ("benchmark_reviews_vs_sft", {"max_drop": 0.01}, False)
    assert gate.value < -0.01
    assert gate.interval[0] <= gate.value <= gate.interval[1]
    assert "benchmark_reviews_vs_sft" in refused.report.promotion
    assert refused.built == ["benchmark"]
    assert not client_of(copy).search_registered_models("name = 'gated'")
    passed = run({"max_drop": 1000})
    assert passed.process.returncode == 0, passed.process.stderr
    assert passed.built == ["register"]
    written = json.loads((copy / "benchmark" / passed.report.stages[-2].key / "benchmarks.json").read_text())
    assert [each["policy"] for each in written["benchmarks"][0]["policies"]] == ["base", "sft", "aligned"]
    version = client_of(copy).get_model_version("gated", "1")
    assert version.description.startswith("A new llama of ")
    assert "benchmark_reviews_vs_sft" in version.description


def test_check_forecasts_what_a_benchmark_takes(call, tiny, tmp_path):
    """Of more documents it takes longer; without a benchmark there is no such stage."""
    tasks = task_of(["The soup was warm and the waiter was kind. " * 20] * 600, tmp_path / "tasks")

    def seconds(*benchmarks: dict) -> dict:
        done = call("check", tiny.recipe, "--json", "--set", f"evaluation.benchmarks={json.dumps(benchmarks)}")
        assert done.code == 0, done.err
        return json.loads(done.out)["seconds"]

    asked = {"task": "reviews", "folder": str(tasks)}
    few, all_of_them = (seconds({**asked, "limit": limit})["benchmark"] for limit in (30, 600))
    assert 0 < few["expected"] < all_of_them["expected"]
    assert "benchmark" not in seconds()


def test_a_task_that_is_not_there_is_refused_before_anything_runs(copy, again, tasks, helpers):
    asked = [{"task": "review", "folder": str(tasks)}]
    refused = again(copy, "--set", f"evaluation.benchmarks={json.dumps(asked)}", "--set", "seed=4")
    assert refused.process.returncode == 2
    helpers.assert_helpful(refused.process.stderr, ("evaluation.benchmarks.0.task", "did you mean reviews"))


def test_a_language_model_judges_a_run_and_its_key_stands_nowhere(copy, tiny, warm, chat_server, client_of):
    """The longer answer wins; a fifth of the questions fail at first. No file of the store has the key."""

    def answer(body, before):
        first, second = re.findall(r"\[response [AB] \w{12}\]\n(.*?)\n\[end", body["messages"][1]["content"], re.S)
        if before % 5 == 0:
            return (503, "busy")
        return f"Verdict: {'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'tie'}"

    served, key = chat_server(answer), "correct-horse-battery-staple"
    judge = {"source": "endpoint", "url": served.url, "model": "judge-1", "allow_http": True, "key": "${HOUSE_JUDGE}", "pairs": 4}
    words = ("--set", f"evaluation.judge={json.dumps(judge)}", "--json")
    done = warm("run", tiny.recipe, "--store", copy, *words, cwd=tiny.folder, HOUSE_JUDGE=key)
    assert done.returncode == 0, done.stderr
    measured = next(stage for stage in json.loads(done.stdout)["stages"] if stage["name"] == "evaluate")["metrics"]
    assert {"win_rate_vs_sft", "win_rate_vs_base", "judge_agreement", "judge_consistency"} <= measured.keys()
    assert measured["judge_failed"] == 0
    assert {headers["Authorization"] for headers in served.headers} == {f"Bearer {key}"}
    assert key not in done.stdout + done.stderr
    assert [path for path in copy.rglob("*") if path.is_file() and key.encode() in path.read_bytes()] == []
    refused = warm("run", tiny.recipe, "--store", copy, *words, cwd=tiny.folder)
    assert refused.returncode == 2
    assert "HOUSE_JUDGE is not set" in refused.stderr


def test_drift_from_the_data_of_the_champion_is_a_gate(copy, again, tiny, tmp_path):
    """The same data are no drift. Preferences from another file are other sources: all pairs, beside the same instructions."""
    gates = {"drift_sources": {"max": 0.01}, "drift_lengths": {"max": 0.01}}
    same = again(copy, "--set", f"evaluation.gates={json.dumps(gates)}")
    assert same.process.returncode == 0, same.process.stderr
    assert [(gate.name, gate.value, gate.passed) for gate in same.report.gates] == [
        ("drift_sources", 0.0, True), ("drift_lengths", 0.0, True),
    ]  # fmt: skip
    other = tmp_path / "other.jsonl"
    rows = Path(yaml.safe_load(tiny.recipe.read_text())["data"]["preferences"]).read_bytes()
    other.write_bytes(rows + b'{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
    moved = again(copy, "--set", f"evaluation.gates={json.dumps(gates)}", "--set", f"data.preferences={other}")
    assert moved.process.returncode == 3, moved.process.stderr
    drifted = {gate.name: (gate.value > 0.2, gate.passed) for gate in moved.report.gates}
    assert drifted == {"drift_sources": (True, False), "drift_lengths": (False, True)}
    assert "drift_sources" in moved.report.promotion
