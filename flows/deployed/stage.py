"""The flow of a stage on a work pool: it runs the stage's task, and leaves in the store how that ended."""

from __future__ import annotations

import functools
from pkgutil import resolve_name
from typing import Any

from prefect.client.schemas.objects import State
from prefect.flows import Flow, flow

from flows.deployed.paths import require_absolute
from flows.deployed.workplace import at_work
from posttrain.pipeline.machine_check import check_machine
from posttrain.pipeline.stages import WORK
from posttrain.runtime import redaction
from posttrain.runtime.gpus import own_gpus
from posttrain.runtime.store import Store
from schemas.deployed import StageOutcome
from schemas.recipe import Recipe
from schemas.results import StageReport
from tasks.chains import chain_of
from tasks.exchange import Exchange, outcome_of
from tasks.stage import StageTask


def __getattr__(name: str) -> Flow[..., None]:
    """The flow of a stage by its name: the entry points of the deployments are `flows.deployed.stage:NAME`."""
    if name in WORK:
        return stage_flow(name)
    raise AttributeError(name)


@functools.cache
def stage_flow(stage: str) -> Flow[..., None]:
    """The flow around the task that the table of stages names."""
    task: StageTask = resolve_name(WORK[stage].task)

    def run(recipe: Recipe, store: str, run_id: str, attempt: int = 1) -> None:
        with redaction.cleaned_errors():
            require_absolute(store)
            _run(stage, task, recipe, store, run_id, attempt)

    decorate: Any = flow(name=stage, description=task.description, persist_result=False)
    made: Flow[..., None] = decorate(run)
    return made


def _run(stage: str, task: StageTask, recipe: Recipe, store: str, run_id: str, attempt: int) -> None:
    """Run the task; its error is raised on, so that Prefect shows it as well.

    What ends the process, a signal for one, is no outcome: the chain sees that the run crashed, and starts it again.
    """
    exchange = Exchange(Store(store).root, run_id, stage)
    with at_work(stage, exchange.process):
        try:
            report = _carry_out(stage, task, recipe, store, run_id)
        except Exception as error:
            exchange.end(outcome_of(error, attempt))
            raise
        exchange.end(StageOutcome(attempt=attempt, kind="finished", report=report))


def _carry_out(stage: str, task: StageTask, recipe: Recipe, store: str, run_id: str) -> StageReport:
    if WORK[stage].pool == "cpu":
        return _report(task(recipe, store, run_id))
    with own_gpus(recipe.compute):
        check_machine(chain_of(recipe, store, run_id))
        return _report(task(recipe, store, run_id))


def _report(returned: StageReport | State[StageReport]) -> StageReport:
    return returned.result() if isinstance(returned, State) else returned
