"""The whole chain: from a recipe to a registered model and its report."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from prefect import flow

from flows.dispatch import Dispatcher, dispatcher_of
from posttrain.pipeline.chain import Chain
from posttrain.runtime import redaction
from posttrain.runtime.store import Store
from schemas.errors import GateRefused
from schemas.load import load_recipe
from schemas.recipe import Recipe
from schemas.results import RunReport, StageReport
from tasks import open_runs, tracking
from tasks.chains import chain_of, check_once, pinned
from tasks.report import build_report, failure, is_promoted, publish
from tasks.secret_blocks import read_blocks

log = logging.getLogger(__name__)
redaction.install()


class PromotionRefused(GateRefused):
    """The run is finished and reported, and its candidate may not be promoted."""

    def __init__(self, report: RunReport) -> None:
        super().__init__(report.promotion)
        self.report = report

    def __reduce__(self) -> tuple[type, tuple[RunReport]]:
        """Cross a process border with the report."""
        return type(self), (self.report,)


class RunFailed(Exception):
    """A stage failed after others had finished; the run is reported as far as it came, and `error` is what the stage raised."""

    def __init__(self, report: RunReport, error: Exception) -> None:
        super().__init__(report.promotion)
        self.report, self.error = report, error

    def __reduce__(self) -> tuple[type, tuple[RunReport, Exception]]:
        """Cross a process border with both."""
        return type(self), (self.report, self.error)


@flow(name="post-training", flow_run_name="post-training", persist_result=False)
def post_training(recipe: Recipe | Path, store: str = ".posttrain") -> RunReport:
    """Run every stage of a recipe, given as a document or as the path of one.

    Raises:
        PromotionRefused: when a gate failed or the champion was not beaten; carries the full report.
        RunFailed: when a stage failed after another had finished; carries the report of what did.
        Refusal: when recipe or data cannot be worked with, before a stage was finished.
    """
    with redaction.cleaned_errors(RunFailed):
        return run_recipe(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), store)


def run_recipe(recipe: Recipe, store: str) -> RunReport:
    """The same inside a flow, of this process or of a worker."""
    started = time.monotonic()
    run_stage = dispatcher_of(recipe, store)
    root = Store(store).root
    recipe = pinned(recipe, root)
    check_once(recipe, root)
    read_blocks(recipe)
    with open_runs.claimed(recipe, root) as marker:
        run_id = tracking.start_run(recipe, root, marker)
        chain = chain_of(recipe, str(root), run_id)
        try:
            stages, ended = run_stages(recipe, str(root), run_id, run_stage)
            report = build_report(chain, run_id, stages, ended, time.monotonic() - started)
            _publish(chain, report, ended)
        except BaseException:
            tracking.close_run(recipe, root, run_id, "FAILED")
            raise
    if ended or not is_promoted(report):
        raise PromotionRefused(report)
    return report


def run_stages(recipe: Recipe, store: str, run_id: str, run_stage: Dispatcher) -> tuple[list[StageReport], Exception | None]:
    """Run the stages that the recipe asks for, of these, each on what the ones before it left in the store:

    validate, filter, pretrain, sft, reward, align, evaluate, benchmark, register

    Nothing else is passed from one to the next. `posttrain/pipeline/stages.py` says of each what it reads, and names its task.
    `run_stage` runs one of them: here, or on the work pool that the table of stages names.

    Returns:
        the stages that finished, and what the next one raised; an error before the first has finished is raised on.
    """
    finished: list[StageReport] = []
    for stage in recipe.stages:
        try:
            finished.append(run_stage(stage, recipe, store, run_id))
        except Exception as error:
            if not finished:
                raise
            return finished, error
    return finished, None


def _publish(chain: Chain, report: RunReport, ended: Exception | None) -> None:
    """Write and log the report.

    Raises:
        RunFailed: when a stage failed, or the report of a finished run could not be written: on a full disk, say.
    """
    try:
        publish(chain, report)
    except Exception as raised:
        error = redaction.without_secrets(raised)
        if report.status == "finished":
            lost = failure("report", error)
            told = {"status": "failed", "error": lost, "promotion": f"{report.promotion}; its report failed: {lost.message}"}
            raise RunFailed(report.model_copy(update=told), error) from error
        log.warning("the report of the failed run is not complete: %s", error)
    if report.status == "failed":
        assert ended  # what a failed report tells of
        raise RunFailed(report, ended) from ended
