"""The whole chain: from a recipe to a registered model and its report."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow

from flows.dispatch import DISPATCHERS
from posttrain.store import Store
from schemas.errors import GateRefused
from schemas.load import load_recipe
from schemas.recipe import Recipe
from schemas.results import RunReport, StageReport
from tasks import tracking
from tasks.chains import chain_of, pinned
from tasks.report import build_report, is_promoted


class PromotionRefused(GateRefused):
    """The run is finished and reported, and its candidate may not be promoted."""

    def __init__(self, report: RunReport) -> None:
        super().__init__(report.promotion)
        self.report = report

    def __reduce__(self) -> tuple[type, tuple[RunReport]]:
        """Cross a process border with the report."""
        return type(self), (self.report,)


@flow(name="post-training", flow_run_name="post-training", persist_result=False)
def post_training(recipe: Recipe | Path, store: str = ".posttrain") -> RunReport:
    """Run every stage of a recipe, given as a document or as the path of one.

    Raises:
        PromotionRefused: when a gate failed or the champion was not beaten; carries the full report.
        Refusal: when recipe or data cannot be worked with.
    """
    started = time.monotonic()
    root = Store(store).root
    recipe = pinned(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), root)
    run_id = tracking.start_run(recipe, root)
    chain = chain_of(recipe, str(root), run_id)
    stages: list[StageReport] = []
    refused: str | None = None
    try:
        try:
            for stage in recipe.stages:
                stages.append(DISPATCHERS[recipe.placement](stage, recipe, str(root), run_id))
        except GateRefused as refusal:
            refused = f"promotion refused: {refusal}"
        report = build_report(chain, run_id, stages, refused, time.monotonic() - started)
    except BaseException:
        tracking.close_run(chain, run_id, "FAILED")
        raise
    if refused or not is_promoted(stages):
        raise PromotionRefused(report)
    return report
