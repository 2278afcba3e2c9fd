"""The whole of it as in production: Prefect and MLflow on PostgreSQL, a worker for each pool, everything by `posttrain deploy`.

A run by API, its repetition, one by a schedule, and three through the form in a browser, from an empty store to models that
answer. With POSTTRAIN_SCREENSHOTS a folder gets pictures of the pages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.postgres import DATABASES, databases, programs
from flows.serving.services import stop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed"),
]
POOLS = {
    "validate": "cpu", "filter": "cpu", "pretrain": "gpu", "sft": "gpu", "align": "gpu", "evaluate": "gpu", "register": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(small, start_site, tmp_path_factory):
    """A site on an empty store, with its databases as `site.databases`."""
    pytest.importorskip("psycopg2", reason="MLflow's driver, psycopg2-binary, is not installed")
    quick = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    with databases() as running, start_site(tmp_path_factory.mktemp("site") / "store", small.folder, running, **quick) as started:
        started.databases = running
        yield started


@pytest.fixture
def run_by_api(api, ended):
    """Start the deployment of the recipe as a program would, and wait for its end."""

    def run():
        deployment = api(lambda client: client.read_deployment_by_name("post-training/small"))
        return ended(api(lambda client: client.create_flow_run_from_deployment(deployment.id)).id)

    return run


@pytest.fixture
def looked_at(request, site, browser):
    """Take a picture of a page, of Prefect's or of MLflow's server, where somebody wants to look at it."""

    def look(server: str, path: str, name: str) -> None:
        if folder := os.environ.get("POSTTRAIN_SCREENSHOTS"):
            page = browser.new_page(viewport={"width": 1300, "height": 1400})
            page.goto(site.clients[server].removesuffix("/api") + path)
            page.wait_for_timeout(15_000)  # both draw late
            page.screenshot(path=Path(folder) / f"{name}.png")

    return look


def answer(site, version: str) -> str:
    """What a registered version says, asked in another process."""
    code = (
        f"import mlflow; model = mlflow.pyfunc.load_model({version!r});"
        "print(model.predict([{'messages': [{'role': 'user', 'content': 'Hi'}]}])[0])"
    )
    command, variables = [sys.executable, "-c", code], site.workers[0].environment | site.clients
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, cwd=site.store)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def assert_completed(run) -> None:
    assert run.state.name == "Completed", run.state.message


def test_a_run_by_api_builds_every_stage_on_its_pool_and_its_model_answers(site, run_by_api, stages_of, looked_at):
    run = run_by_api()
    assert_completed(run)
    stages = stages_of(run.id)
    assert {name: stage.work_pool_name for name, stage in stages.items()} == POOLS
    assert all(stage.state.is_completed() for stage in stages.values())
    assert answer(site, "models:/small@champion")
    print(f"built in {run.total_run_time.total_seconds():.0f} s")
    looked_at("PREFECT_API_URL", f"/v2/runs/flow-run/{run.id}", "run")
    looked_at("PREFECT_API_URL", f"/v2/runs/flow-run/{run.id}?tab=Artifacts", "artifacts")
    looked_at("MLFLOW_TRACKING_URI", "/#/models/small", "model")


def test_both_servers_keep_what_they_know_in_postgresql(site, run_by_api):
    run = run_by_api()
    assert site.databases.query("prefect", f"select state_name from flow_run where id = '{run.id}'") == "Completed"
    assert site.databases.query("mlflow", "select count(*) from model_versions where name = 'small'") == "1"


def test_the_repetition_reuses_everything(run_by_api, stages_of):
    """Seconds are printed: from the moment at which it was due, the worker's start of a process included."""
    run = run_by_api()
    assert_completed(run)
    assert run.state.message.endswith("all stages were reused")
    assert stages_of(run.id) == {}
    seconds = (run.end_time - run.expected_start_time).total_seconds()
    print(f"repeated in {seconds:.1f} s")


def test_a_run_by_a_schedule_completes(site, small, next_scheduled):
    done = site.call("deploy", "--store", site.store, "--recipes", small.folder, small.recipe, "--schedule", "* * * * *")
    assert done.returncode == 0, done.stderr
    try:
        run = next_scheduled()
    finally:  # a run each minute would be in the way of what comes after
        assert site.call("undeploy", "--store", site.store).returncode == 0
        assert site.call("deploy", "--store", site.store, "--recipes", small.folder).returncode == 0  # without the time
    assert_completed(run)
    assert run.auto_scheduled


def fill_in_beta(form) -> None:
    form.put("Beta", "0.3", among="Alignment")


def fill_in_ppo(form) -> None:
    form.choose("Alignment", "PPO")
    form.choose("Reward", "FunctionReward", among="Alignment")
    form.put("Name", "posttrain.data.samples:sentiment", among="FunctionReward")
    for label, value in {"Iterations": "2", "Rollouts": "16", "Max New Tokens": "8", "Max Length": "256"}.items():
        form.put(label, value, among="Alignment")


def fill_in_ia3(form) -> None:
    form.choose("Peft", "IA3", among="Alignment")
    form.put("Learning Rate", "0.005", among="Alignment")


@pytest.mark.parametrize(
    ("fill_in", "field", "value"),
    [
        (fill_in_beta, ("beta",), 0.3),
        (fill_in_ppo, ("algorithm",), "ppo"),
        (fill_in_ia3, ("peft", "method"), "ia3"),
    ],
    ids=["beta", "ppo", "ia3"],
)
def test_a_run_through_the_form_completes(open_form, ended, stages_of, looked_at, request, fill_in, field, value):
    form = open_form("small", "new")
    fill_in(form)
    if folder := os.environ.get("POSTTRAIN_SCREENSHOTS"):
        form.page.screenshot(path=Path(folder) / f"form-{value}.png", full_page=True)
    run = ended(form.submit())
    assert form.errors == []
    assert_completed(run)
    assert {"align", "evaluate", "register"} <= set(stages_of(run.id))
    sent = run.parameters["recipe"]["alignment"]
    for name in field:
        sent = sent[name]
    assert sent == value


def test_everything_is_lost_and_restored_from_a_backup(site, run_by_api, tmp_path):
    """As deployments/README.md says: both databases, and the store after them. The last test of this site."""
    stop([*site.servers, *site.workers], seconds=60)
    for name in DATABASES:
        site.databases.dump(name, tmp_path / name)
    backup = shutil.copytree(site.store, tmp_path / "store")
    shutil.rmtree(site.store)
    for name in DATABASES:
        site.databases.restore(name, tmp_path / name)
    shutil.copytree(backup, site.store)
    for each in [*site.servers, *site.workers]:
        each.start()
        each.wait_until_ready()
    verified = site.call("store", "verify", "--store", site.store, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["damaged"] == []
    assert answer(site, "models:/small@champion")
    run = run_by_api()
    assert_completed(run)
    assert run.state.message.endswith("all stages were reused")
