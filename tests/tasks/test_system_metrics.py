"""Samples of the machine: written while a stage is built, numbered on when it resumes, and in MLflow once each."""

from __future__ import annotations

import json
import time

from posttrain.runtime.store import Built
from tasks import live_curve, system_metrics, tracked_stages, tracking


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_are_numbered_on_by_an_attempt_that_resumes(tmp_path):
    path = tmp_path / "run" / "sft.system.jsonl"
    for _ in range(2):
        with system_metrics.sampled(path, 0.05):
            time.sleep(0.3)
    found = lines(path)
    assert [line["step"] for line in found] == list(range(len(found)))
    assert len(found) >= 4
    assert [line["seconds"] for line in found] == sorted(line["seconds"] for line in found)
    for line in found:
        assert 0 < line["system_memory_usage_percentage"] < 100
        assert 0 < line["process_memory_usage_megabytes"] < line["system_memory_usage_megabytes"] + 1e5


def test_none_is_no_sample_and_no_thread(tmp_path):
    with system_metrics.sampled(tmp_path / "x", None):
        time.sleep(0.05)
    assert not (tmp_path / "x").exists()


def test_mlflow_has_each_sample_once_where_its_page_of_system_metrics_looks(unbuilt, mlflow_of, monkeypatch):
    monkeypatch.setattr(live_curve, "FLUSH_SECONDS", 0.05)
    slow = unbuilt.recipe.tracking.model_copy(update={"system_seconds": 0.05})
    monkeypatch.setattr(unbuilt, "recipe", unbuilt.recipe.model_copy(update={"tracking": slow}))
    run_id = tracking.start_run(unbuilt.recipe, unbuilt.store.root)

    def work(out):
        time.sleep(0.4)
        return Built()

    stored = unbuilt.store.build(
        unbuilt.identity("validate"), lambda out: tracked_stages.tracked(unbuilt, run_id, "validate", work, out)
    )
    for _ in range(2):
        tracked_stages.log_all(unbuilt, run_id, stored)
    client = mlflow_of(unbuilt)
    (nested,) = client.search_runs([client.get_run(run_id).info.experiment_id], "tags.stage = 'validate'")
    points = client.get_metric_history(nested.info.run_id, "system/cpu_utilization_percentage")
    written = lines(tracked_stages._system(unbuilt, run_id, "validate"))
    assert [(each.step, each.value) for each in points] == [
        (each["step"], each["cpu_utilization_percentage"]) for each in written
    ]
    assert points
