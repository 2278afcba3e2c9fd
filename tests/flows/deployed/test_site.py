"""End to end: servers, workers, everything registered by `posttrain deploy`; runs by API, by cron, and refused ones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def first(site, small):
    """The first run, triggered from a terminal: process and what it printed as JSON."""
    done = site.call("trigger", small.recipe, "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def client_at():
    """An MLflow client of a server."""
    from mlflow import MlflowClient

    return MlflowClient


def test_a_run_builds_each_missing_stage_on_its_pool_and_no_other(first, stages_of):
    stages = stages_of(first["flow_run"])
    assert {name: run.work_pool_name for name, run in stages.items()} == {"validate": "cpu", "evaluate": "gpu", "register": "cpu"}
    assert all(run.state.is_completed() for run in stages.values())
    assert first["message"].endswith("built: validate, evaluate, register")


def test_names_tags_logs_and_the_table_of_stages_are_in_prefect(first, api, stages_of):
    from prefect.client.schemas.filters import ArtifactFilter, LogFilter

    evaluate = stages_of(first["flow_run"])["evaluate"]
    assert evaluate.name == "small evaluate"
    assert {"posttrain", "recipe:small", "stage:evaluate"} < set(evaluate.tags)
    said = api(lambda client: client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [evaluate.id]}})))
    assert any("held-out prompts" in line.message for line in said), [line.message for line in said]
    wanted = ArtifactFilter.model_validate({"flow_run_id": {"any_": [first["flow_run"]]}})
    artifacts = {each.key: each.data for each in api(lambda client: client.read_artifacts(artifact_filter=wanted))}
    assert "| evaluate | " in artifacts["run"]
    assert "| pretrain | " in artifacts["run"]
    assert {"run", "report", "mlflow"} <= set(artifacts)


def test_mlflow_leads_to_the_run_in_prefect(first, site, client_at):
    client = client_at(site.clients["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id], "attributes.run_name = 'small'")
    assert any(first["flow_run"] in run.data.tags["mlflow.note.content"] for run in runs)


def test_the_registered_version_answers(first, site):
    code = (
        "import mlflow; model = mlflow.pyfunc.load_model('models:/small@champion');"
        "print(model.predict([{'messages': [{'role': 'user', 'content': 'Hello'}]}])[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(site), capture_output=True, text=True, timeout=300, cwd=site.store
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def _environment(site) -> dict[str, str]:
    return site.workers[0].environment | site.clients


def test_a_scheduled_run_fires_and_reuses_everything(first, site, small, next_scheduled):
    """Deployed again, with a time: what was there stays, and a schedule that a person has added is kept."""
    assert (
        site.call("deploy", "--store", site.store, "--recipes", small.folder, small.recipe, "--schedule", "* * * * *").returncode
        == 0
    )
    run = next_scheduled()
    assert run.state.name == "Completed", run.state.message
    assert run.state.message.endswith("all stages were reused")
    assert run.auto_scheduled
    assert site.call("undeploy", "--store", site.store).returncode == 0
    assert site.call("deploy", "--store", site.store, "--recipes", small.folder).returncode == 0  # without the time


def test_a_refusal_on_the_other_pool_reaches_the_terminal_with_its_exit_code(first, site, small):
    """Only the machine that trains can say that it has no CUDA."""
    words = ("--set", "compute.device=cuda", "--set", "evaluation.max_new_tokens=5")
    done = site.call("trigger", small.recipe, *words, "--wait", "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    ended = json.loads(done.stdout)
    assert ended["state"] == "Refused"
    assert ended["message"].startswith("compute.device: found cuda")


@pytest.mark.slow  # a minute of processes; test_dispatcher.py has the outcome, and the test above the way to the terminal
def test_a_gate_that_refuses_on_a_pool_ends_the_run_as_the_gate(first, site, small):
    words = ("--set", "registry.model=other", "--set", "evaluation.gates.win_rate_vs_sft.lower_bound_above=0.99")
    done = site.call("trigger", small.recipe, *words, "--wait", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert json.loads(done.stdout)["state"] == "GateRefused"
