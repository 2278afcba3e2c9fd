"""One small flow per stage, so that each can be deployed on its own work pool."""

from __future__ import annotations

import functools
from pkgutil import resolve_name

from prefect.client.schemas.objects import State
from prefect.flows import Flow, flow

from posttrain.pipeline.stages import WORK
from schemas.recipe import Recipe
from schemas.results import StageReport
from tasks.stage import Returned, StageTask


def run_stage(stage: str, recipe: Recipe, store: str, run_id: str) -> StageReport:
    """Run one stage of a recipe as a subflow in this process; raises what the stage raised. `run_id` is the MLflow parent run."""
    returned = stage_flow(stage)(recipe, store, run_id)
    return returned.result() if isinstance(returned, State) else returned  # a reused stage returns its state


@functools.cache
def stage_flow(stage: str) -> Flow[[Recipe, str, str], Returned]:
    """The flow around the task that the table of stages names."""
    task: StageTask = resolve_name(WORK[stage].task)

    def run(recipe: Recipe, store: str, run_id: str) -> Returned:
        return task(recipe, store, run_id)

    return flow(name=stage, flow_run_name=stage, description=task.description, persist_result=False)(run)
