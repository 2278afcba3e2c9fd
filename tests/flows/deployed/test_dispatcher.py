"""How a stage is given to its pool and waited for, against a real Prefect server; a thread stands for worker and stage."""

from __future__ import annotations

import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
from prefect.states import Cancelled, Crashed, Running

from flows.deployed import dispatcher, registration
from flows.deployed.dispatcher import StageCancelled, run_on_pool
from flows.deployed.names import STORE
from posttrain.runtime.liveness import note_of_this_process, noted
from posttrain.runtime.remote import documents
from schemas.deployed import StageOutcome
from schemas.errors import GateRefused, Refusal
from schemas.load import load_recipe
from tasks.chains import chain_of
from tasks.exchange import STARTED, Exchange, StageFailed, outcome_of, start_note

STAGE = "validate"


@pytest.fixture(scope="module")
def registered(prefect_url, tmp_path_factory) -> str:
    """A server that has no worker, on which the stages are registered."""
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        site = registration.Site(store=str(tmp_path_factory.mktemp("site")), dtype="float32")
        registration.register(site, registration.plan(site, {}, {}))
    return prefect_url


@pytest.fixture
def work(registered, finished, tmp_path, monkeypatch):
    """A chain whose first stage is missing in its store."""
    monkeypatch.setattr(dispatcher, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 0.1)
    store = tmp_path / "store"
    shutil.copytree(finished.store / STAGE, tmp_path / "built")
    (store / STAGE).mkdir(parents=True)
    recipe = load_recipe(finished.recipe)
    run_id = tmp_path.name.replace("_", "-")
    with temporary_settings({PREFECT_API_URL: registered, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        built = next(stage for stage in finished.report.stages if stage.name == STAGE)
        chain_of.cache_clear()
        yield SimpleNamespace(
            recipe=recipe,
            store=store,
            run_id=run_id,
            report=built,
            exchange=Exchange(store, run_id, STAGE),
            built=tmp_path / "built",
        )


def run(work):
    """Dispatch the stage and wait for it."""
    return run_on_pool(STAGE, work.recipe, str(work.store), work.run_id)


def runs_of(work):
    """Flow runs that were made for this run, the first one first."""
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [f"stage:{STAGE}"]}})
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=wanted, limit=200)
    return sorted(
        (each for each in found if each.parameters["run_id"] == work.run_id), key=lambda each: each.parameters["attempt"]
    )


class Worker(threading.Thread):
    """Takes each new run of the stage, and does with it what the next of `acts` says."""

    def __init__(self, work, *acts) -> None:
        super().__init__(daemon=True)
        self.work, self.acts = work, list(acts)
        self.url = PREFECT_API_URL.value()
        self.start()

    def run(self) -> None:
        seen: set = set()
        with temporary_settings({PREFECT_API_URL: self.url}):
            while self.acts:
                for each in runs_of(self.work):
                    if each.id not in seen and self.acts:
                        seen.add(each.id)
                        with SyncPrefectClient(self.url) as client:
                            client.set_flow_run_state(each.id, Running(), force=True)
                            self.acts.pop(0)(self.work, client, each)
                time.sleep(0.1)


def finish(work, client, flow_run) -> None:
    """The stage leaves its result and says so."""
    shutil.copytree(work.built, work.store / STAGE, dirs_exist_ok=True)
    work.exchange.end(StageOutcome(attempt=flow_run.parameters["attempt"], kind="finished", report=work.report))


def crash(work, client, flow_run) -> None:
    """The process dies, and its worker says so."""
    client.set_flow_run_state(flow_run.id, Crashed(message="killed"), force=True)


def raising(error):
    """The stage raises an error and leaves that as its outcome."""
    return lambda work, client, flow_run: work.exchange.end(outcome_of(error, flow_run.parameters["attempt"]))


def test_a_finished_stage_is_one_run_with_name_tags_and_parameters(work):
    Worker(work, finish)
    assert run(work) == work.report
    [only] = runs_of(work)
    assert only.name == "tiny validate"
    assert {"posttrain", "recipe:tiny", f"key:{work.report.key}"} < set(only.tags)
    assert only.work_pool_name == "cpu"
    assert only.job_variables == {"env": {STORE: str(work.store)}}


def test_a_stage_that_is_in_the_store_is_not_dispatched(work):
    shutil.copytree(work.built, work.store / STAGE, dirs_exist_ok=True)
    assert run(work).reused
    assert runs_of(work) == []


def test_a_crash_is_repeated_and_three_are_enough(work):
    Worker(work, crash, finish)
    assert run(work) == work.report
    assert [each.parameters["attempt"] for each in runs_of(work)] == [1, 2]


def test_after_three_crashes_the_run_ends_and_says_why(work):
    Worker(work, crash, crash, crash)
    with pytest.raises(StageFailed, match="ended as Crashed in attempt 3: killed"):
        run(work)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refusal(where="compute.device", found="cuda", allowed="cpu", remedy="set it"), Refusal),
        (GateRefused("kl_per_token failed"), GateRefused),
        (OSError("disk full"), StageFailed),
    ],
)
def test_what_a_stage_raises_there_is_raised_here_and_not_repeated(work, error, kind):
    Worker(work, raising(error))
    with pytest.raises(kind) as raised:
        run(work)
    assert str(error) in str(raised.value)
    assert len(runs_of(work)) == 1


def test_a_cancelled_stage_is_not_repeated(work):
    Worker(work, lambda work, client, flow_run: client.set_flow_run_state(flow_run.id, Cancelled(), force=True))
    with pytest.raises(StageCancelled):
        run(work)
    assert len(runs_of(work)) == 1


def test_a_chain_that_is_started_again_takes_up_the_run_that_goes_on(work):
    """The first chain is given up while its stage runs, as by kill -9; the second one makes no run of its own."""
    first = dispatcher._Dispatch(STAGE, chain_of(work.recipe, str(work.store), work.run_id), work.run_id)
    dispatched = first._dispatch()
    Worker(work, lambda work, client, flow_run: (time.sleep(1), finish(work, client, flow_run)))
    assert run(work) == work.report
    assert [str(each.id) for each in runs_of(work)] == [dispatched.flow_run]


def test_a_chain_that_died_before_prefect_answered_does_not_start_the_stage_twice(work):
    chain = chain_of(work.recipe, str(work.store), work.run_id)
    first = dispatcher._Dispatch(STAGE, chain, work.run_id)
    first._dispatch()
    first.exchange.note_dispatch(first.exchange.dispatched().model_copy(update={"flow_run": None}))  # as before the answer
    Worker(work, finish)
    assert run(work) == work.report
    assert len(runs_of(work)) == 1


def test_a_process_that_is_dead_is_not_waited_for(work):
    """kill -9 of worker and stage together: nobody tells Prefect, and the note in the store is of a process that is gone."""

    def die(work, client, flow_run) -> None:
        note = note_of_this_process(STAGE, str(flow_run.id)).model_copy(update={"started": "1"})  # an earlier one's
        try:
            with noted(work.exchange.process, note):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            return

    Worker(work, die, finish)
    assert run(work) == work.report
    first, _ = runs_of(work)
    assert first.state.is_crashed()
    assert "is dead" in first.state.message


def test_a_process_that_died_before_it_knew_its_stage_is_not_waited_for(work):
    """The same, while it waited for Prefect or imported: all that it has left is the note of its start."""

    def die(work, client, flow_run) -> None:
        note = note_of_this_process(STARTED, str(flow_run.id)).model_copy(update={"started": "1"})
        documents.write(start_note(work.store, str(flow_run.id)), note.model_dump_json())

    Worker(work, die, finish)
    assert run(work) == work.report
    assert "is dead" in runs_of(work)[0].state.message


def test_a_stage_that_finished_on_another_store_is_refused(work):
    def say_so(work, client, flow_run) -> None:
        work.exchange.end(StageOutcome(attempt=flow_run.parameters["attempt"], kind="finished", report=work.report))

    Worker(work, say_so)
    with pytest.raises(Refusal, match="its result is not in"):
        run(work)


def test_without_deployments_the_remedy_is_to_deploy(work, monkeypatch):
    monkeypatch.setattr(dispatcher, "deployment_of", lambda stage: f"{stage}/unknown")
    with pytest.raises(Refusal, match="posttrain deploy"):
        run(work)
