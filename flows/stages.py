"""One small flow per stage, so that each can be deployed on its own work pool."""

from __future__ import annotations

from prefect.flows import Flow, flow
from prefect.tasks import Task

from schemas.recipe import Recipe
from schemas.results import StageReport
from tasks import data, evaluation, register, training

StageTask = Task[[Recipe, str, str], StageReport]


def stage_flow(stage: StageTask) -> Flow[[Recipe, str, str], StageReport]:
    """A flow around one stage's task. `run_id` is the MLflow parent run."""

    def run(recipe: Recipe, store: str, run_id: str) -> StageReport:
        return stage(recipe, store, run_id)

    return flow(run, name=stage.name, flow_run_name=stage.name, description=stage.description, persist_result=False)


validate = stage_flow(data.validate)
filter = stage_flow(data.filter)
pretrain = stage_flow(training.pretrain)
sft = stage_flow(training.sft)
align = stage_flow(training.align)
evaluate = stage_flow(evaluation.evaluate)
register_model = stage_flow(register.register)

STAGE_FLOWS = {each.name: each for each in (validate, filter, pretrain, sft, align, evaluate, register_model)}
