"""What every stage's task does around its one call into `posttrain`: find or build the result, track it, report it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import Task, task

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.stages import WORK
from posttrain.runtime import progress, redaction
from posttrain.runtime.store import Built, Stored
from schemas.recipe import Recipe
from schemas.results import StageReport
from tasks import tracked_stages
from tasks.chains import chain_of

Build = Callable[[Chain, Path], Built]
Returned = StageReport | State[StageReport]
StageTask = Task[[Recipe, str, str], Returned]


def stage_task(build: Build) -> StageTask:
    """A Prefect task named after `build` that returns the stored result of that stage, building it when there is none.

    Prefect's own cache is off: its keys miss changed inputs and it trusts deleted files. A reused result is the state `Reused`.
    """
    stage = build.__name__
    redaction.install()

    def run(recipe: Recipe, store: str, run_id: str) -> Returned:
        started = time.monotonic()
        with redaction.cleaned_errors():
            chain = chain_of(recipe, store, run_id)
            stored = find_or_build(chain, run_id, stage, lambda out: build(chain, out))
            return as_state(stage_report(stored, time.monotonic() - started))

    decorate = task(
        name=stage, task_run_name=stage, description=inspect.getdoc(build), cache_policy=NO_CACHE, persist_result=False
    )
    return decorate(run)


def find_or_build(chain: Chain, run_id: str, stage: str, make: Callable[[Path], Built]) -> Stored:
    """The stored result of a stage, built by `make` inside its MLflow run when there is none."""
    identity = chain.identity(stage)

    def build(out: Path) -> Built:
        with progress.working(stage):
            return tracked_stages.tracked(chain, run_id, stage, make, out)

    stored = chain.store.build(identity, build, WORK[stage].writes)
    if not stored.reused or tracked_stages.left_open(chain, run_id, stored):
        tracked_stages.log_all(chain, run_id, stored)
    return stored


def as_state(report: StageReport) -> Returned:
    """What a task returns, so that Prefect shows which stages were reused."""
    return Completed(name="Reused", data=report) if report.reused else report


def stage_report(stored: Stored, seconds: float) -> StageReport:
    """The result of a stage as this run saw it; outputs that are files become absolute paths."""
    result = stored.result
    outputs = {name: str(path) if (path := stored.folder / value).exists() else value for name, value in result.outputs.items()}
    return StageReport(
        name=result.stage,
        key=result.key,
        reused=stored.reused,
        seconds=round(seconds, 2),
        metrics=result.metrics,
        outputs=outputs,
    )
