"""Runs that Prefect takes for unfinished and that no process works on are marked as crashed, which frees their places.

A kill -9, a power cut, or an outage of Prefect at the wrong moment leaves such runs behind. Who watches over a site
(`posttrain serve`, `posttrain reconcile --every`) has chains that died so start again instead, a few times; chains do that for
their stages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Completed

from flows.deployed.api import insist
from flows.deployed.names import TAG
from flows.deployed.watch import declare_crashed, why_lost
from posttrain.runtime.liveness import is_dead, read_note
from posttrain.runtime.remote import documents
from posttrain.runtime.store import Store
from schemas.deployed import ProcessNote
from tasks.exchange import CHAIN, STARTED, Exchange

UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
RESTARTS = 3
"""That a chain is started again after it died."""
AGAIN = "its process died, and it starts again"
PAGE = 200  # of runs, Prefect's limit


def reconcile(root: Path, note: Callable[[str], None], restart: bool = False) -> int:
    """Free what the dead runs of a store hold; `note` is told of each.

    Args:
        restart: have chains start again.

    Returns:
        the number of runs that were marked.
    """
    found_notes = {path: found for path in documents.matching(root / "runs", "*.process.json") if (found := read_note(path))}
    # Of the two notes of a process the one that knows what it did comes first.
    notes = dict(sorted(found_notes.items(), key=lambda each: each[1].what == STARTED))
    dead = {path: found for path, found in notes.items() if is_dead(path, found)}
    first = {found.flow_run: path for path, found in reversed(dead.items())}
    freed = [_free(path, found, note, restart) for path, found in dead.items() if first[found.flow_run] == path]
    for path in dead:
        documents.remove(path)
    known = {found.flow_run for found in notes.values()}
    unnoted = [run for run in _unfinished(root) if str(run.id) not in known]
    for run in unnoted:
        if why := why_lost(run):
            note(f"run {run.name} is freed: {_give_up(run, why, restart)}")
            freed.append(True)
    return sum(freed)


def _free(path: Path, found: ProcessNote, note: Callable[[str], None], restart: bool) -> bool:
    """Mark the run of a dead process; whether there was anything to mark."""
    marked = _mark(UUID(found.flow_run), path, found, restart) if found.flow_run else None
    if marked:
        note(f"run {found.flow_run} ({found.what}) is freed: {marked}")
    return marked is not None


def _mark(flow_run: UUID, path: Path, found: ProcessNote, restart: bool) -> str | None:
    """What was done with a run that Prefect still took for unfinished, or that can start again; None for any other."""
    why = f"process {found.pid} on {found.host} is dead"
    try:
        run = insist(lambda client: client.read_flow_run(flow_run), "which runs are unfinished")
    except ObjectNotFound:
        return None
    if run.state is None or run.state.is_scheduled():
        return None  # it is to begin again
    if run.state.is_final():
        return f"{why}; {AGAIN}" if run.state.is_crashed() and restart and _starts_again(run) else None
    if found.what not in (CHAIN, STARTED) and _finished(path, found.what):  # Prefect was away when it ended
        insist(lambda client: client.set_flow_run_state(flow_run, Completed(), force=True), "to mark a finished stage")
        return why
    for each in _subflows(flow_run):
        declare_crashed(each, why)
    return _give_up(run, why, restart)


def _give_up(run: FlowRun, why: str, restart: bool) -> str:
    """Mark an unfinished run as crashed, or have it start again."""
    if restart and run.state and not run.state.is_cancelling() and _starts_again(run):
        return f"{why}; {AGAIN}"
    declare_crashed(run.id, why)
    return why


def _starts_again(run: FlowRun) -> bool:
    """Have a chain start again, unless it has died too often; a stage is the affair of its chain."""
    if run.deployment_id is None or "run_id" in run.parameters:
        return False
    states = insist(lambda client: client.read_flow_run_states(run.id), "how often a run has died")
    if sum(state.message == AGAIN for state in states) >= RESTARTS:
        return False
    insist(lambda client: client.set_flow_run_state(run.id, AwaitingRetry(message=AGAIN), force=True), "to start a run again")
    return True


def _finished(path: Path, stage: str) -> bool:
    """Whether the last attempt of a stage has left a result."""
    exchange = Exchange(path.parents[2], path.parent.name, stage)
    last = exchange.dispatched()
    outcome = exchange.outcome(last.attempt) if last else None
    return outcome is not None and outcome.kind == "finished"


def _subflows(flow_run: UUID) -> list[UUID]:
    """Stages that an inline run has in its own process."""
    wanted = FlowRunFilter.model_validate(
        {"parent_flow_run_id": {"any_": [flow_run]}, "deployment_id": {"is_null_": True}, "state": {"type": {"any_": UNFINISHED}}}
    )
    return [run.id for run in insist(lambda client: client.read_flow_runs(flow_run_filter=wanted), "which runs are unfinished")]


def _unfinished(root: Path) -> list[FlowRun]:
    """Deployed runs on this store that have not ended."""
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [TAG]}, "state": {"type": {"any_": UNFINISHED}}})

    def every_page(client: SyncPrefectClient) -> list[FlowRun]:
        found: list[FlowRun] = []
        while len(page := client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found))) == PAGE:
            found += page
        return [*found, *page]

    runs = insist(every_page, "which runs are unfinished")
    return [run for run in runs if run.parameters.get("store") == Store(root).address]
