"""One small flow per stage, so that each can be deployed on its own work pool."""

from __future__ import annotations

from prefect.flows import Flow, flow

from schemas.recipe import Recipe
from tasks import data, evaluation, register, training
from tasks.stage import Returned, StageTask


def stage_flow(stage: StageTask) -> Flow[[Recipe, str, str], Returned]:
    """A flow around one stage's task. `run_id` is the MLflow parent run."""

    def run(recipe: Recipe, store: str, run_id: str) -> Returned:
        return stage(recipe, store, run_id)

    decorate = flow(name=stage.name, flow_run_name=stage.name, description=stage.description, persist_result=False)
    return decorate(run)


validate = stage_flow(data.validate)
filter = stage_flow(data.filter)
pretrain = stage_flow(training.pretrain)
sft = stage_flow(training.sft)
reward = stage_flow(training.reward)
align = stage_flow(training.align)
evaluate = stage_flow(evaluation.evaluate)
register_model = stage_flow(register.register)

STAGE_FLOWS = {each.name: each for each in (validate, filter, pretrain, sft, reward, align, evaluate, register_model)}
