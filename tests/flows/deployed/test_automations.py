"""What people are told of runs that end, by the automations of a real Prefect server and a real webhook."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running

from flows.deployed import automations
from flows.deployed.names import GATE, REFUSED, SKIPPED, TAG

BLOCK = "custom-webhook/told"
TOLD = {
    "failed": Failed(message="out of memory"),
    "crashed": Crashed(message="its process is dead"),
    "refused": Failed(name=REFUSED, message="data.corpus: found nothing"),
    "gate": Failed(name=GATE, message="win rate 0.4"),
}
NOT_TOLD = {
    "completed": Completed(message="promoted"),
    "skipped": Completed(name=SKIPPED, message="an earlier run goes on"),
    "cancelled": Cancelled(message="by a person"),
    "goes on": Running(),
}


@flow(name="told of")
def something() -> None:
    """A flow to have runs of."""


@pytest.fixture
def webhook():
    """Its address, and what was sent to it."""
    sent: list[dict] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/", sent=sent)
        server.shutdown()


def delete_all(client) -> None:
    for each in automations.removable(client):
        client.delete_automation(each.id)


@pytest.fixture
def told(client, webhook):
    """What the webhook was sent, with our automations on the server."""
    block = CustomWebhookNotificationBlock(name="told", url=webhook.url, json_data={"said": "{{body}}"})
    block.save("told", overwrite=True)
    automations.ensure(client, BLOCK)
    time.sleep(1)  # a trigger learns of an automation by a message
    yield webhook.sent
    delete_all(client)


def wait_for(met, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.1)


def test_people_are_told_once_of_every_run_of_ours_that_failed_in_whatever_way_and_of_no_other(client, told):
    """Runs have their ending's own name, which an event has as well, and a person who goes by `Failed` alone misses."""

    def end(ending, *tags: str) -> str:
        run = client.create_flow_run(something, state=Running(), tags=tags)
        client.set_flow_run_state(run.id, ending, force=True)
        return run.name

    for ending in NOT_TOLD.values():
        end(ending, TAG)
    end(Failed(message="somebody else's"))
    expected = {end(ending, TAG): ending for ending in TOLD.values()}  # last: when they have come, the others would have
    wait_for(lambda: len(told) >= len(expected))
    time.sleep(1)
    said = sorted(each["said"].partition("\n")[0] for each in told)
    assert said == sorted(f"told of / {run} is {ending.name}: {ending.message}" for run, ending in expected.items())


@pytest.mark.parametrize("ending", [*TOLD.values(), *NOT_TOLD.values()], ids=[*TOLD, *NOT_TOLD])
def test_a_run_that_has_ended_is_not_waited_for(ending):
    """After the last heartbeat the server waits for another one, or for any ending."""
    silent, unbegun = (each.trigger for each in automations.wanted(None))
    name = f"prefect.flow-run.{ending.name}"
    assert (name in silent.expect) == ending.is_final()
    assert name in unbegun.expect


def test_a_run_that_a_worker_has_taken_and_no_process_begins_is_marked_as_crashed(client, monkeypatch, request):
    """A process that finds the server away before it has begun ends without a word; a container may wait for its image."""
    monkeypatch.setattr(automations, "UNBEGUN", timedelta(seconds=30))
    request.addfinalizer(lambda: delete_all(client))
    automations.ensure(client, None)
    time.sleep(1)
    for kind in ("process", "kubernetes"):
        client.create_work_pool(WorkPoolCreate(name=f"unbegun-{kind}", type=kind), overwrite=True)

    def taken(kind: str) -> UUID:
        run = client.create_flow_run(something, tags=[TAG], work_pool_name=f"unbegun-{kind}")
        for state in (Pending(), Pending(name="Submitting")):
            client.set_flow_run_state(run.id, state, force=True)
        return run.id

    begun, container, unbegun = (taken(kind) for kind in ("process", "kubernetes", "process"))
    time.sleep(5)  # a process takes longer to begin; the server may see events of the same moment in another order
    client.set_flow_run_state(begun, Running(), force=True)
    wait_for(lambda: client.read_flow_run(unbegun).state.is_crashed(), 120)
    assert "not begun" in client.read_flow_run(unbegun).state.message
    assert client.read_flow_run(begun).state.is_running()
    assert client.read_flow_run(container).state.is_pending()
