"""Runs that Prefect takes for unfinished and that no process works on are marked as crashed, which frees their places.

A kill -9, a power cut, or an outage of Prefect at the wrong moment leaves such runs behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows.deployed.api import insist
from flows.deployed.names import TAG
from flows.deployed.watch import declare_crashed, why_lost
from posttrain.runtime.liveness import is_dead, read_note
from posttrain.runtime.remote import documents
from posttrain.runtime.store import Store
from schemas.deployed import ProcessNote
from tasks.exchange import CHAIN, STARTED, Exchange

UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
PAGE = 200  # of runs, Prefect's limit


def reconcile(root: Path, note: Callable[[str], None]) -> int:
    """Free what the dead runs of a store hold; `note` is told of each.

    Returns:
        the number of runs that were marked.
    """
    found_notes = {path: found for path in documents.matching(root / "runs", "*.process.json") if (found := read_note(path))}
    # Of the two notes of a process the one that knows what it did comes first.
    notes = dict(sorted(found_notes.items(), key=lambda each: each[1].what == STARTED))
    freed = [_free(path, found, note) for path, found in notes.items() if is_dead(path, found)]
    known = {found.flow_run for found in notes.values()}
    unnoted = [run for run in _unfinished(root) if str(run.id) not in known]
    for run in unnoted:
        if why := why_lost(run):
            declare_crashed(run.id, why)
            note(f"run {run.name} is freed: {why}")
            freed.append(True)
    return sum(freed)


def _free(path: Path, found: ProcessNote, note: Callable[[str], None]) -> bool:
    """Mark the run of a dead process, and take its note away."""
    marked = bool(found.flow_run) and _mark(UUID(found.flow_run), path, found)
    if marked:
        note(f"run {found.flow_run} ({found.what}) is freed: process {found.pid} on {found.host} is dead")
    documents.remove(path)
    return marked


def _mark(flow_run: UUID, path: Path, found: ProcessNote) -> bool:
    """Whether Prefect still took the run for unfinished."""
    try:
        run = insist(lambda client: client.read_flow_run(flow_run), "which runs are unfinished")
    except ObjectNotFound:
        return False
    if run.state is None or run.state.is_final():
        return False
    if found.what not in (CHAIN, STARTED) and _finished(path, found.what):  # Prefect was away when it ended
        insist(lambda client: client.set_flow_run_state(flow_run, Completed(), force=True), "to mark a finished stage")
        return True
    for each in (*_subflows(flow_run), flow_run):
        declare_crashed(each, f"process {found.pid} on {found.host} is dead")
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
