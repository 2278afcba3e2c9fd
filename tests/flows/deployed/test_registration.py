"""`posttrain deploy` against a real Prefect server: what is made, and that the second time changes nothing."""

from __future__ import annotations

from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import Posture
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployed import api, automations
from flows.deployed.names import STORE
from flows.deployed.registration import SLUG, Site, plan, register
from flows.deployed.removal import remove
from posttrain.pipeline.stages import WORK
from schemas.errors import Refusal
from schemas.load import load_recipe

POOLS = {"cpu": "registration-cpu", "gpu": "registration-gpu"}


@pytest.fixture
def client(prefect_url):
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(store=str(tmp_path / "store"), dtype="bfloat16", pools=POOLS, gpu_limit=2)


@pytest.fixture
def recipes(tiny) -> dict:
    return {"tiny": load_recipe(tiny.recipe)}


def test_every_stage_has_a_deployment_on_its_pool_and_the_recipe_its_values(client, site, recipes):
    planned = plan(site, recipes, {"tiny": "0 2 * * *"})
    register(site, planned)
    for stage, work in WORK.items():
        found = client.read_deployment_by_name(f"{stage}/posttrain")
        assert found.work_pool_name == POOLS[work.pool]
        assert found.entrypoint == f"flows.deployed.stage:{stage}"
    of_recipe = client.read_deployment_by_name("post-training/tiny")
    assert of_recipe.parameters == {"store": str(site.store), "dtype": "bfloat16", "recipe": recipes["tiny"].document}
    assert [(each.slug, each.schedule.cron, each.schedule.timezone) for each in of_recipe.schedules] == [
        (SLUG, "0 2 * * *", "UTC")
    ]
    assert of_recipe.job_variables["command"].endswith(" -P -m flows.deployed.engine")
    assert of_recipe.job_variables["env"][STORE] == str(site.store)
    assert STORE not in client.read_deployment_by_name("sft/posttrain").job_variables["env"]  # another chain's may be another one
    assert client.read_work_pool(POOLS["gpu"]).concurrency_limit == 2


def test_the_second_time_keeps_deployments_pools_and_schedules_of_people(client, site, recipes):
    register(site, plan(site, recipes, {"tiny": "0 2 * * *"}))
    first = client.read_deployment_by_name("post-training/tiny")
    mine = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 12 * * 1", timezone="UTC"), active=False, slug="mine")
    client.create_deployment_schedules(first.id, [mine])
    register(site, plan(site, recipes, {"tiny": "0 3 * * *"}))
    again = client.read_deployment_by_name("post-training/tiny")
    assert again.id == first.id
    assert {(each.slug, each.schedule.cron, each.active) for each in again.schedules} == {
        (SLUG, "0 3 * * *", True), ("mine", "0 12 * * 1", False),
    }  # fmt: skip
    register(site, plan(site, recipes, {}))
    assert len(client.read_deployment_by_name("post-training/tiny").schedules) == 2


def test_a_pool_of_another_type_is_refused_and_left(client, site):
    register(site, plan(site, {}, {}))
    other = Site(store=site.store, dtype="float32", pools=POOLS, kind="docker")
    with pytest.raises(Refusal, match="is of type process"):
        register(other, plan(other, {}, {}))
    assert client.read_work_pool(POOLS["cpu"]).type == "process"


def test_a_time_that_is_none_is_refused(site, recipes):
    with pytest.raises(Refusal, match="--schedule"):
        plan(site, recipes, {"tiny": "every night"})


def test_what_was_registered_is_taken_away_and_another_store_keeps_its_own(client, site, recipes, tmp_path):
    other = Site(store=str(tmp_path / "other"), dtype="float32", pools=POOLS)
    register(site, plan(site, recipes, {}))
    register(other, plan(other, {"else": recipes["tiny"].model_copy(update={"name": "else"})}, {}))
    remove(site.store, pools=False)
    left = {each.name for each in client.read_deployments() if each.work_pool_name in POOLS.values()}
    assert left >= {"else"}
    assert "tiny" not in left
    remove(other.store, pools=True)
    assert not {pool.name for pool in client.read_work_pools()} & set(POOLS.values())


def automations_of(client) -> dict:
    return {each.name.removeprefix("posttrain: "): each for each in client.read_automations() if "posttrain" in each.tags}


def test_a_run_without_heartbeats_is_crashed_and_people_are_told_where_a_block_can(client, site):
    """Ten minutes: an automation of 90 s was seen to end runs that lived."""
    planned = plan(site, {}, {})[:1]
    register(site, planned)
    assert set(automations_of(client)) == {"no heartbeat", "never began"}
    with pytest.raises(Refusal, match="--notify"):
        register(site, planned, "slack-webhook/nobody")
    with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
        CustomWebhookNotificationBlock(name="us", url="http://127.0.0.1:9/").save("us", overwrite=True)
    register(site, planned, "custom-webhook/us")
    register(site, planned, "custom-webhook/us")
    found = automations_of(client)
    assert set(found) == {"no heartbeat", "never began", "a run failed", "a run is late"}
    silent = found["no heartbeat"]
    assert silent.trigger.posture == Posture.Proactive
    assert silent.trigger.within >= timedelta(seconds=540)
    assert "prefect.flow-run.heartbeat" in silent.trigger.expect
    assert silent.actions[0].state == StateType.CRASHED
    assert found["a run failed"].actions[0].block_document_id == found["a run is late"].actions[0].block_document_id
    remove(site.store, pools=True)
    assert automations_of(client) == {}


@pytest.fixture
def busy(prefect_url):
    """Address of the server by a way on which every first request to delete something finds it busy; and what was asked."""
    seen: list[str] = []

    class Way(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(f"{self.command} {self.path}")
            if self.command == "DELETE" and seen.count(seen[-1]) == 1:
                return self.send_error(503)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            there = Request(prefect_url.removesuffix("/api") + self.path, body or None, method=self.command)
            there.add_header("Content-Type", "application/json")
            try:
                answer = urlopen(there, timeout=60)
            except HTTPError as refused:
                answer = refused
            with answer:
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", seen
        server.shutdown()


def test_a_server_that_is_busy_for_a_moment_ends_no_removal(client, busy, site, monkeypatch):
    """A server on SQLite answers 503 while a run writes to its database."""
    monkeypatch.setattr(api, "RETRY_SECONDS", 0.1)
    planned = plan(site, {}, {})[:2]
    register(site, planned)
    address, seen = busy
    with temporary_settings({PREFECT_API_URL: address}):
        done = remove(site.store, pools=True)
    assert len(done) == len(planned) + len({each.pool for each in planned}) + len(automations.wanted(None))
    assert sum(request.startswith("DELETE") for request in seen) == 2 * len(done)
    assert not {each.work_pool_name for each in client.read_deployments()} & {each.pool for each in planned}
