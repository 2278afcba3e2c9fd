"""Tables of what the contracts found, in MLflow and Prefect."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
from prefect import task
from prefect.client.orchestration import get_client

from tasks.check_tables import TABLE, check_rows, log_checks, show_checks


def check(name: str, count: int, **more: object) -> dict[str, object]:
    known = {"check": name, "severity": "drop", "count": count, "share": count / 10, "limit": None, "failed": False}
    return known | {"examples": [f"a.jsonl:{n + 1}" for n in range(count)]} | more


SUMMARY = {
    "preferences": {"checks": [check("duplicate", 2), check("identical", 0), check("conflict", 1, limit=0.01, failed=True)]},
    "instructions": {"checks": [check("empty_completion", 1)]},
}


def summary(folder):
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder / "summary.json"


def test_checks_that_found_something_are_rows(tmp_path):
    found = check_rows(summary(tmp_path))
    assert found["preferences"] == [
        {"check": "duplicate", "count": 2, "share": 0.2, "limit": None, "effect": "drop", "such as": "a.jsonl:1, a.jsonl:2"},
        {"check": "conflict", "count": 1, "share": 0.1, "limit": 0.01, "effect": "failed", "such as": "a.jsonl:1"},
    ]
    assert [row["check"] for row in found["instructions"]] == ["empty_completion"]


def test_mlflow_gets_one_table_of_all_data_sets(tmp_path):
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'x.db'}")
    experiment = client.create_experiment("x", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    log_checks(client, run, summary(tmp_path))
    table = json.loads(Path(client.download_artifacts(run, TABLE, str(tmp_path))).read_text())
    assert table["columns"][:2] == ["data", "check"]
    assert [row[:3] for row in table["data"]] == [
        ["preferences", "duplicate", 2], ["preferences", "conflict", 1], ["instructions", "empty_completion", 1]
    ]  # fmt: skip


def test_outside_of_a_task_of_prefect_nothing_is_shown(tmp_path, caplog):
    show_checks(summary(tmp_path))
    assert not caplog.records


def test_a_task_of_prefect_has_a_table_for_each_data_set(tmp_path):
    path = summary(tmp_path)
    task(lambda: show_checks(path), name="show")()
    with get_client(sync_client=True) as client:
        keys = [artifact.key for artifact in client.read_artifacts() if artifact.type == "table"]
    assert sorted(keys) == ["checks-instructions", "checks-preferences"]
