"""Run a stage on its work pool and wait for it, through outages of Prefect and deaths of workers.

The store says whether a stage is finished and how it ended; Prefect starts it, and says when it died without an ending.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pkgutil import resolve_name
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.deployed.api import insist
from flows.deployed.names import STORE, deployment_of, run_name, tags_of
from flows.deployed.watch import Watch
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.stages import WORK
from posttrain.runtime.interruption import Terminated
from posttrain.runtime.progress import current, working
from posttrain.runtime.remote import documents
from posttrain.runtime.store import Store
from schemas.deployed import Dispatched, StageOutcome
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.results import StageReport
from tasks.chains import chain_of
from tasks.exchange import Exchange, StageFailed, opened, start_note

ATTEMPTS = 3  # of a stage in one run of the chain, where its process or its machine dies
POLL_SECONDS = 2.0
SETTLE_SECONDS = 20.0  # for an ending to be seen through a file system of the network


class StageCancelled(Exception):
    """A person has cancelled a stage; the run that waited for it ends, and can be run again."""


def run_on_pool(stage: str, recipe: Recipe, store: str, run_id: str) -> StageReport:
    """Run a stage on its work pool; one that is finished in the store is reused here, which is faster by far.

    Raises:
        Refusal, GateRefused, StageFailed: what the stage raised there.
        StageCancelled: when a person cancelled it.
    """
    chain = chain_of(recipe, store, run_id)
    if chain.store.finished(chain.identity(stage)) is not None:
        report: StageReport = _data(resolve_name(WORK[stage].task)(recipe, store, run_id))
        return report
    with working(f"{stage}: on pool {WORK[stage].pool}"):
        report = _Dispatch(stage, chain, run_id).run()
    _require_same_store(chain, stage)
    return report


def _data(returned: StageReport | State[StageReport]) -> StageReport:
    return returned.result() if isinstance(returned, State) else returned


def _require_same_store(chain: Chain, stage: str) -> None:
    """What a stage has finished must be what the chain goes on with."""
    if Store(chain.store.root).finished(chain.identity(stage)) is None:
        raise Refusal(
            where="store",
            found=f"{stage} finished on its pool, and its result is not in {chain.store.address}",
            allowed="one store and the same inputs for all workers, from the start of a run to its end",
            remedy="check that every worker has the folder mounted and reads the same data, and run it again",
        )


@dataclass
class _Dispatch:
    """One stage that is given to its pool."""

    stage: str
    chain: Chain
    run_id: str

    def __post_init__(self) -> None:
        self.exchange = Exchange(self.chain.store.root, self.run_id, self.stage)

    def run(self) -> StageReport:
        """Attempts, one after the other, of which the first may be one that an earlier process of this run has started."""
        dispatched = self._taken_up()
        for left in reversed(range(ATTEMPTS)):
            dispatched = dispatched or self._dispatch()
            ended = self._wait(dispatched)
            if isinstance(ended, StageOutcome):
                return opened(ended)
            _refuse_cancelled(self.stage, ended)
            if not left or not _may_be_repeated(ended):
                raise StageFailed(f"{self.stage} ended as {ended.name} in attempt {dispatched.attempt}: {ended.message}")
            current().note(f"{self.stage}: attempt {dispatched.attempt} ended as {ended.name} ({ended.message}), once more")
            dispatched = None
        raise AssertionError

    def _taken_up(self) -> Dispatched | None:
        """The attempt that still runs, of a chain that died while it waited for it."""
        last = self.exchange.dispatched()
        if last is None or last.flow_run is None or self.exchange.outcome(last.attempt):
            return None
        try:
            run = insist(lambda client: client.read_flow_run(UUID(last.flow_run)), f"whether {self.stage} still runs")
        except (ObjectNotFound, ValueError):
            return None
        if run.state is None or run.state.is_final():
            return None
        current().note(f"{self.stage}: attempt {last.attempt} is taken up, which still runs")
        return last

    def _dispatch(self) -> Dispatched:
        """Have Prefect start the next attempt: once, however often the call is repeated."""
        last = self.exchange.dispatched()
        unsent = last is not None and last.flow_run is None  # this chain died before Prefect had answered
        attempt = 1 if last is None else last.attempt + (0 if unsent else 1)
        self.exchange.note_dispatch(Dispatched(attempt=attempt))
        run = insist(lambda client: self._create(attempt), f"to start {self.stage}")
        dispatched = Dispatched(attempt=attempt, flow_run=str(run.id))
        self.exchange.note_dispatch(dispatched)
        return dispatched

    def _create(self, attempt: int) -> FlowRun:
        recipe, stage = self.chain.recipe, self.stage
        try:
            run = run_deployment(
                deployment_of(stage),
                parameters={
                    "recipe": recipe.document,
                    "store": self.chain.store.address,
                    "run_id": self.run_id,
                    "attempt": attempt,
                },
                job_variables={"env": {STORE: self.chain.store.address}},
                timeout=0,
                flow_run_name=run_name(recipe.name, stage, attempt),
                tags=tags_of(recipe, stage, self.chain.identity(stage).key),
                idempotency_key=f"{self.run_id} {stage} {attempt}",
            )
        except ObjectNotFound as error:
            raise Refusal(
                where="placement",
                found=f"deployed, and Prefect knows no deployment {deployment_of(stage)}",
                allowed="stages that are registered on their pools",
                remedy="run `posttrain deploy` for this server",
            ) from error
        assert isinstance(run, FlowRun)  # outside of an event loop it is no coroutine
        return run

    def _wait(self, dispatched: Dispatched) -> StageOutcome | State:
        """How an attempt ended: by itself, or the state in which Prefect has it where it left no outcome."""
        assert dispatched.flow_run
        notes = self.exchange.process, start_note(self.chain.store.root, dispatched.flow_run)
        watch = Watch(notes, UUID(dispatched.flow_run), self.stage)
        try:
            while True:
                if outcome := self.exchange.outcome(dispatched.attempt):
                    return outcome
                if state := watch.ended():
                    return self._last_word(dispatched) or state
                time.sleep(POLL_SECONDS)
        except Terminated:
            watch.pass_on_cancellation()
            raise

    def _last_word(self, dispatched: Dispatched) -> StageOutcome | None:
        """The outcome of an attempt that has ended, which a file system of the network may show late."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            if outcome := self.exchange.outcome(dispatched.attempt):
                return outcome
            if documents.read(self.exchange.process):  # its process was killed, and left this behind
                return None
            time.sleep(POLL_SECONDS)
        return None


def _refuse_cancelled(stage: str, state: State) -> None:
    if state.is_cancelled():
        raise StageCancelled(f"{stage} was cancelled; run it again to go on from there")


def _may_be_repeated(state: State) -> bool:
    """A machine or a process died. A run that failed without an outcome could not even begin, which it will not the next time."""
    return state.is_crashed()
