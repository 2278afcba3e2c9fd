"""Watch a flow run of a stage from outside: how it ended, that nobody takes it, that its process is dead."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Cancelling, Crashed

from flows.deployed.api import AWAY_SECONDS, PrefectAway, ask, insist, is_outage
from posttrain.runtime.liveness import is_dead, read_note
from posttrain.runtime.progress import current

UNTAKEN_SECONDS = 120.0  # after which a run that no worker takes is told of
PENDING_SECONDS = 1800.0  # that a worker may prepare a container: an image of many gigabytes, say
UNNOTED_SECONDS = 300.0  # that a process may be without a note, from its start: it writes one first of all


class Watch:
    """One flow run of a stage, whose process keeps its notes at `notes`."""

    def __init__(self, notes: tuple[Path, ...], flow_run: UUID, stage: str) -> None:
        self.notes, self.flow_run, self.stage = notes, flow_run, stage
        self.answered = self.began = time.monotonic()
        self.told = False

    def ended(self) -> State | None:
        """The state in which the run has ended, or None while it goes on or nobody can say.

        Raises:
            PrefectAway: when Prefect does not answer for long, and no process works either.
        """
        try:
            run = ask(lambda client: client.read_flow_run(self.flow_run))
        except ObjectNotFound:
            return Crashed(message="its flow run was deleted")
        except Exception as error:
            if not is_outage(error):
                raise
            self._tell_outage(error)
            return None
        self.answered = time.monotonic()
        if run.state is None or run.state.is_final():
            return run.state
        self._tell_untaken(run)
        return declare_crashed(run.id, why) if (why := why_lost(run, *self.notes)) else None

    def pass_on_cancellation(self) -> None:
        """Where a person has cancelled the run that waits, and not a machine ended it, the stage is cancelled too."""
        own = this_flow_run.get_id()
        state = ask(lambda client: client.read_flow_run(UUID(own))).state if own else None
        if state and (state.is_cancelling() or state.is_cancelled()):
            ask(lambda client: client.set_flow_run_state(self.flow_run, Cancelling()))

    def _tell_outage(self, error: Exception) -> None:
        away = time.monotonic() - self.answered
        if away > AWAY_SECONDS and not any((note := read_note(each)) and not is_dead(each, note) for each in self.notes):
            raise PrefectAway(f"no answer for {away / 60:.0f} minutes, and {self.stage} does not run: {error}") from error
        if not self.told:
            current().note(f"Prefect does not answer; {self.stage} is waited for all the same")
            self.told = True

    def _tell_untaken(self, run: FlowRun) -> None:
        if run.state and run.state.is_scheduled() and not self.told and time.monotonic() - self.began > UNTAKEN_SECONDS:
            where = f"pool {run.work_pool_name}" if run.work_pool_name else "its pool"
            current().note(f"{self.stage}: no worker of {where} has taken it yet; is one running, and has it room?")
            self.told = True


def why_lost(run: FlowRun, *notes: Path) -> str | None:
    """Why a run that Prefect takes for unfinished has no process any more, or None where it may have one.

    Args:
        notes: where its process would say that it lives; the first that does counts.
    """
    assert run.state
    for path in notes:
        note = read_note(path)
        if note and note.flow_run == str(run.id):
            return f"process {note.pid} on {note.host} is dead" if is_dead(path, note) else None
    since = time.time() - run.state.timestamp.timestamp()
    if run.state.is_pending() and since > UNNOTED_SECONDS and since > _preparation(run):
        return f"pending for {since / 60:.0f} minutes, and no process has begun"
    if run.state.is_running() and since > UNNOTED_SECONDS:
        return f"running for {since / 60:.0f} minutes, and no process says so in the store"
    return None


def _preparation(run: FlowRun) -> float:
    """Seconds that the worker of a run may take to begin it: what starts a process has no image to fetch."""
    name = run.work_pool_name
    try:
        pool = insist(lambda client: client.read_work_pool(name), f"what pool {name} is") if name else None
    except ObjectNotFound:
        pool = None
    return UNNOTED_SECONDS if pool and pool.type == "process" else PENDING_SECONDS


def declare_crashed(flow_run: UUID, why: str) -> State:
    """Tell Prefect that a run has no process, which frees its place in the pool."""
    state: State = Crashed(message=why)
    insist(lambda client: client.set_flow_run_state(flow_run, state, force=True), f"to mark {flow_run} as crashed")
    return state
