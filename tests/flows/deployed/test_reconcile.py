"""Runs without a process are freed, and those that have one are left, against a real Prefect server."""

from __future__ import annotations

import pytest
from prefect import flow
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelling, Completed, Crashed, Pending, Running

from flows.deployed import watch
from flows.deployed.names import TAG
from flows.deployed.reconcile import AGAIN, RESTARTS, reconcile
from posttrain.runtime.liveness import note_of_this_process
from posttrain.runtime.writing import write_atomically
from schemas.deployed import Dispatched, StageOutcome
from tasks.exchange import CHAIN, STARTED, Exchange, chain_note, start_note


@flow(name="reconciled")
def something(store: str = "", run_id: str = "") -> None:
    """A flow to have runs of."""


@pytest.fixture
def a_run(client, tmp_path):
    """A run of this store in a state."""
    return lambda state: client.create_flow_run(something, parameters={"store": str(tmp_path)}, state=state, tags=[TAG])


def note(path, what: str, flow_run, alive: bool) -> None:
    """The note of this process, or of an earlier one with its id."""
    mine = note_of_this_process(what, str(flow_run.id))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (mine if alive else mine.model_copy(update={"started": "1"})).model_dump_json())


def test_a_chain_whose_process_is_dead_is_freed_once_and_a_living_one_is_left(client, a_run, tmp_path):
    dead, alive = a_run(Running()), a_run(Running())
    note(chain_note(tmp_path, str(dead.id)), CHAIN, dead, alive=False)
    note(chain_note(tmp_path, str(alive.id)), CHAIN, alive, alive=True)
    told: list[str] = []
    assert reconcile(tmp_path, told.append) == 1
    assert client.read_flow_run(dead.id).state.is_crashed()
    assert client.read_flow_run(alive.id).state.is_running()
    assert "is freed" in told[0]
    assert not chain_note(tmp_path, str(dead.id)).exists()
    assert reconcile(tmp_path, told.append) == 0


def test_a_stage_that_finished_while_prefect_was_away_is_no_crash(client, a_run, tmp_path):
    stage = a_run(Running())
    exchange = Exchange(tmp_path, "run-1", "sft")
    exchange.note_dispatch(Dispatched(attempt=1, flow_run=str(stage.id)))
    exchange.end(StageOutcome(attempt=1, kind="finished"))
    note(exchange.process, "sft", stage, alive=False)
    assert reconcile(tmp_path, lambda text: None) == 1
    assert client.read_flow_run(stage.id).state.is_completed()


def test_a_stage_that_finished_is_no_crash_where_its_process_has_left_both_its_notes(client, a_run, tmp_path):
    stage = a_run(Running())
    exchange = Exchange(tmp_path, "run-1", "sft")
    exchange.note_dispatch(Dispatched(attempt=1, flow_run=str(stage.id)))
    exchange.end(StageOutcome(attempt=1, kind="finished"))
    note(start_note(tmp_path, str(stage.id)), STARTED, stage, alive=False)
    note(exchange.process, "sft", stage, alive=False)
    assert reconcile(tmp_path, lambda text: None) == 1
    assert client.read_flow_run(stage.id).state.is_completed()
    assert not start_note(tmp_path, str(stage.id)).exists()


def test_a_process_that_waits_to_begin_is_left_and_one_that_died_so_is_freed(client, a_run, tmp_path, monkeypatch):
    """However long it has waited: it may be Prefect itself that was away."""
    monkeypatch.setattr(watch, "PENDING_SECONDS", 0)
    monkeypatch.setattr(watch, "UNNOTED_SECONDS", 0)
    alive, dead = a_run(Pending()), a_run(Pending())
    note(start_note(tmp_path, str(alive.id)), STARTED, alive, alive=True)
    note(start_note(tmp_path, str(dead.id)), STARTED, dead, alive=False)
    assert reconcile(tmp_path, lambda text: None) == 1
    assert client.read_flow_run(alive.id).state.is_pending()
    assert client.read_flow_run(dead.id).state.is_crashed()


@pytest.fixture
def deployed(client, tmp_path):
    """A run of a deployment in a state, whose process has died."""

    def deployed(state, **parameters):
        flow_id = client.create_flow(something)
        deployment = client.create_deployment(flow_id=flow_id, name="reconciled", parameters={"store": str(tmp_path)})
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        client.set_flow_run_state(run.id, state, force=True)
        return run

    return deployed


def died(tmp_path, run) -> None:
    note(start_note(tmp_path, str(run.id)), STARTED, run, alive=False)
    note(chain_note(tmp_path, str(run.id)), CHAIN, run, alive=False)


@pytest.mark.parametrize("state", [Running(), Crashed()], ids=["nobody has told", "its worker has told"])
def test_a_chain_that_died_starts_again_a_few_times_where_somebody_watches_over_it(client, deployed, tmp_path, state):
    run = deployed(state)
    told: list[str] = []
    for _ in range(RESTARTS):
        client.set_flow_run_state(run.id, state, force=True)
        died(tmp_path, run)
        assert reconcile(tmp_path, told.append, restart=True) == 1
        now = client.read_flow_run(run.id)
        assert (now.state.name, now.state.message) == ("AwaitingRetry", AGAIN)
        assert now.next_scheduled_start_time is not None
    client.set_flow_run_state(run.id, state, force=True)
    died(tmp_path, run)
    reconcile(tmp_path, told.append, restart=True)
    assert client.read_flow_run(run.id).state.is_crashed()
    assert len(told) == RESTARTS + state.is_running()


def test_a_chain_that_a_person_cancelled_and_a_stage_do_not_start_again(client, deployed, tmp_path):
    cancelled, stage = deployed(Running()), deployed(Running(), run_id="r")
    client.set_flow_run_state(cancelled.id, Cancelling())
    for run in (cancelled, stage):
        died(tmp_path, run)
    assert reconcile(tmp_path, lambda text: None, restart=True) == 2
    assert all(client.read_flow_run(run.id).state.is_crashed() for run in (cancelled, stage))


def test_runs_that_never_got_a_process_are_freed_after_a_while(client, a_run, tmp_path, monkeypatch):
    pending, running = a_run(Pending()), a_run(Running())
    assert reconcile(tmp_path, lambda text: None) == 0
    monkeypatch.setattr(watch, "PENDING_SECONDS", 0)
    monkeypatch.setattr(watch, "UNNOTED_SECONDS", 0)
    assert reconcile(tmp_path, lambda text: None) == 2
    assert all(client.read_flow_run(each.id).state.is_crashed() for each in (pending, running))


@pytest.mark.parametrize(("kind", "lost"), [("process", True), ("kubernetes", False)])
def test_a_worker_that_starts_processes_has_no_half_hour_to_begin(client, tmp_path, monkeypatch, kind, lost):
    """It was killed after it had taken the run, and what it started died with it."""
    client.create_work_pool(WorkPoolCreate(name=f"reconciled-{kind}", type=kind), overwrite=True)
    parameters = {"store": str(tmp_path)}
    pending = client.create_flow_run(
        something, parameters=parameters, state=Pending(), tags=[TAG], work_pool_name=f"reconciled-{kind}"
    )
    assert reconcile(tmp_path, lambda text: None) == 0
    monkeypatch.setattr(watch, "UNNOTED_SECONDS", 0)
    assert reconcile(tmp_path, lambda text: None) == lost
    assert client.read_flow_run(pending.id).state.is_crashed() == lost


def test_runs_of_another_store_and_finished_ones_are_left(client, a_run, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "UNNOTED_SECONDS", 0)
    finished, other = a_run(Completed()), a_run(Running())
    note(chain_note(tmp_path, str(finished.id)), CHAIN, finished, alive=False)
    assert reconcile(tmp_path / "other", lambda text: None) == 0
    assert client.read_flow_run(other.id).state.is_running()
    assert reconcile(tmp_path, lambda text: None) == 1  # the other one, which is of this store
    assert client.read_flow_run(finished.id).state.is_completed()
