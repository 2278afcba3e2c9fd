"""A scheduled run is skipped while an earlier one of its deployment goes on, against a real Prefect server and its scheduler."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from prefect import flow
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Completed, Pending, Running

from flows.deployed.names import SKIPPED
from flows.deployed.overlap import overlapped


@flow(name="overlapping")
def something() -> None:
    """A flow to have runs of."""


@pytest.fixture
def deployment(client, request):
    schedule = IntervalSchedule(interval=timedelta(days=1), anchor_date=datetime.now(UTC) + timedelta(hours=1))
    flow_id = client.create_flow(something)
    return client.create_deployment(flow_id, request.node.name, schedules=[DeploymentScheduleCreate(schedule=schedule)])


@pytest.fixture
def scheduled(client, deployment):
    """The next three runs that Prefect itself has scheduled."""
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment}, json={"min_runs": 3}).raise_for_status()
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
    runs = sorted(client.read_flow_runs(flow_run_filter=wanted), key=lambda run: run.expected_start_time)
    assert all(run.auto_scheduled for run in runs)
    return [run.id for run in runs[:3]]


def begin(client, run) -> None:
    """As a worker does."""
    for state in (Pending(), Running()):
        client.set_flow_run_state(run, state, force=True)


def test_a_run_that_is_due_while_an_earlier_one_goes_on_is_skipped_and_says_which(client, scheduled):
    first, second, third = scheduled
    begin(client, first)
    begin(client, second)
    assert overlapped(str(first)) is None
    assert str(first) in overlapped(str(second))
    client.set_flow_run_state(first, Completed(), force=True)
    client.set_flow_run_state(second, Completed(), force=True)
    begin(client, third)
    assert overlapped(str(third)) is None


def test_a_run_that_has_not_begun_is_no_reason(client, scheduled):
    first, second, _ = scheduled
    client.set_flow_run_state(first, Pending(), force=True)
    begin(client, second)
    assert overlapped(str(second)) is None


def test_a_scheduled_run_waits_for_no_end_of_one_that_a_person_started_later(client, deployment, scheduled):
    begin(client, scheduled[0])
    by_hand = client.create_flow_run_from_deployment(deployment).id
    begin(client, by_hand)
    assert overlapped(str(scheduled[0])) is None
    assert overlapped(str(by_hand)) is None  # whoever asks for a run gets one


def test_runs_of_other_deployments_and_of_none_are_not_looked_at(client, scheduled):
    other = client.create_flow_run(something, state=Running())
    begin(client, scheduled[0])
    assert overlapped(str(scheduled[0])) is None
    assert overlapped(str(other.id)) is None
    assert overlapped(None) is None


@pytest.fixture
def often(site, small, api, tmp_path):
    """The small recipe with a stage to build on the gpu pool, deployed for every minute: its deployment."""
    document = yaml.safe_load(small.recipe.read_text()) | {"name": "often", "registry": None}
    document["evaluation"] = document["evaluation"] | {"max_new_tokens": 9}
    recipe = tmp_path / "often.yaml"
    recipe.write_text(yaml.safe_dump(document, sort_keys=False))
    done = site.call("deploy", "--store", site.store, "--recipes", tmp_path, recipe, "--schedule", "* * * * *")
    assert done.returncode == 0, done.stderr
    deployment = api(lambda client: client.read_deployment_by_name("post-training/often"))
    yield deployment
    api(lambda client: client.delete_deployment(deployment.id))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_deployed_schedule_skips_a_run_while_the_one_before_waits_for_its_pool(site, often, api, ended):
    """Nobody may take the stage of the first run until the second was due."""

    def runs(name: str) -> list:
        wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [often.id]}, "state": {"name": {"any_": [name]}}})
        return api(lambda client: client.read_flow_runs(flow_run_filter=wanted))

    def pause(paused: bool) -> None:
        api(lambda client: client.update_work_pool("gpu", WorkPoolUpdate(is_paused=paused)))

    pause(True)
    try:
        end = time.monotonic() + 280
        while not (skipped := runs(SKIPPED)):
            assert time.monotonic() < end, "no run was skipped"
            time.sleep(1)
        (first,) = runs("Running")
        for schedule in often.schedules:
            api(lambda client, found=schedule: client.delete_deployment_schedule(often.id, found.id))
    finally:
        pause(False)
    assert all(run.auto_scheduled for run in (first, *skipped))
    assert str(first.id) in skipped[0].state.message
    assert "evaluate" in ended(first.id).state.message.partition("built: ")[2]
