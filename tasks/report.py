"""The end of a run, however it ends: the printed result, report.html, and the closing of the MLflow run."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.chat_templates import of_a_new_model
from posttrain.evaluation.gates import gates_of
from posttrain.pipeline.chain import Chain
from posttrain.report.build import write_report
from posttrain.runtime import redaction
from posttrain.runtime.store import Store
from posttrain.runtime.trees import read_regular
from posttrain.runtime.writing import write_atomically
from posttrain.training import caution
from schemas.errors import GateRefused, Refusal
from schemas.model import ScratchModel
from schemas.recipe import Recipe
from schemas.results import Failure, GateReport, Metrics, RunReport, StageReport, TemplateReport
from schemas.secrets import without_credentials
from tasks import registry, tracked_stages, tracking
from tasks.chains import new_chain
from tasks.drift import kept_drift
from tasks.earlier_versions import earlier_versions
from tasks.lineage import stages_of_run
from tasks.open_runs import run_folder

RECIPE = "recipe.json"  # in the folder of a run


def build_report(chain: Chain, run_id: str, stages: list[StageReport], ended: Exception | None, seconds: float) -> RunReport:
    """What a run prints; nothing is written.

    `ended` is the error of the first stage that is not in `stages`, a `GateRefused` where a gate stopped the candidate; or None.
    """
    numbers = _measured(chain, stages, run_id)
    notices = unsealed(chain, [stage.name for stage in stages])
    used = note_template(chain, notices.append)
    registered = next((stage.outputs for stage in stages if stage.name == "register"), None)
    seen = [sentence for stage in stages for sentence in caution.of_stage(stage.name, stage.metrics)]
    error = None if ended is None or isinstance(ended, GateRefused) else failure(chain.recipe.stages[len(stages)], ended)
    return RunReport(
        run_id=run_id,
        status="failed" if error else "finished",
        error=error,
        seconds=round(seconds, 2),
        stages=tuple(stages),
        gates=_gates(chain, numbers),
        model=registry.model_report(chain, registered["version"]) if registered else None,
        report=run_folder(chain.store.root, run_id, "tracking.uri") / "report.html",
        promotion=_promotion(ended, error, registered),
        chat_template=used,
        notices=tuple(notices),
        warnings=(*caution.of_recipe(chain.recipe), *seen),
    )


def failure(stage: str, error: Exception) -> Failure:
    """An error in words for the report."""
    again = f"run the same command again: what is finished is kept, and it goes on from {stage}"
    if isinstance(error, Refusal):
        return Failure(stage=stage, message=f"{error.where}: found {error.found}", remedy=f"{error.remedy}; then {again}")
    error = redaction.without_secrets(error)
    first_line = next(iter(str(error).strip().splitlines()), "")
    return Failure(stage=stage, message=f"{type(error).__name__}: {first_line}", remedy=f"mend the cause; then {again}")


def unsealed(chain: Chain, stages: Sequence[str]) -> list[str]:
    """What to say of results that an older version of posttrain wrote; nothing where all have a seal."""
    found = [stage for stage in stages if chain.stored(stage).result.seal is None]
    if not found:
        return []
    return [
        f"results without a seal, since an older version wrote them: {', '.join(found)}. Their files are those of the manifest, "
        "and nothing vouches for their numbers; to have new ones, move the stage's folder out of the store and run again"
    ]


def note_template(chain: Chain, note: Callable[[str], None]) -> TemplateReport | None:
    """The chat template of a run; `note` is told what preflight tells a person about it, on all rows that were validated."""
    if isinstance(chain.model, ScratchModel):
        return of_a_new_model()  # nothing is rendered, and the libraries of models are not needed
    from posttrain.pipeline.preflight import check_chat_template
    from posttrain.pipeline.template_check import template_in_use

    try:
        check_chat_template(chain, None, note)
    except Refusal as refusal:  # a run that had no preflight, or whose model is gone, is reported nevertheless
        note(str(refusal))
    with contextlib.suppress(Refusal):
        return template_in_use(chain).report
    return None


def _promotion(ended: Exception | None, error: Failure | None, registered: dict[str, str] | None) -> str:
    if error:
        return f"the run failed in {error.stage}: {error.message}"
    if ended:
        return f"promotion refused: {ended}"
    return registered["promotion"] if registered else "not registered: the recipe has no registry section"


def _gates(chain: Chain, numbers: Metrics) -> tuple[GateReport, ...]:
    """What was measured of the gates; nothing where a metric is missing, which is then why the run failed."""
    try:
        return gates_of(chain.recipe, numbers)
    except Refusal:
        return ()


def _measured(chain: Chain, stages: Sequence[StageReport], run_id: str) -> Metrics:
    """What gates go by; nothing where the run did not get as far as evaluation."""
    evaluated = any(stage.name == "evaluate" for stage in stages)
    return chain.measured() | kept_drift(chain, run_id) if evaluated else {}


def publish(chain: Chain, report: RunReport) -> None:
    """Write `report.html` and `result.json` of the run, log the report, and close the MLflow run."""
    report.report.parent.mkdir(parents=True, exist_ok=True)
    folders, earlier = stage_folders(chain.store, report.stages), _earlier(chain, report)
    write_report(chain.recipe, report, folders, report.report, earlier=earlier)
    write_atomically(report.report.with_name("result.json"), report.model_dump_json(indent=1))
    write_atomically(report.report.with_name(RECIPE), without_credentials(json.dumps(chain.recipe.document, indent=1)))
    for name in (report.report.name, "result.json", RECIPE):
        chain.store.keep(report.report.with_name(name))
    tracked_stages.log_all(chain, report.run_id)
    with tempfile.TemporaryDirectory() as scratch:
        public = None
        if _private(chain):
            public = write_report(chain.recipe, report, folders, Path(scratch), rows=False, earlier=earlier)
        tracking.finish_run(chain.recipe, chain.store.root, report, _measured(chain, report.stages, report.run_id), public)


def _private(chain: Chain) -> bool:
    return chain.recipe.tracking.rows == "none"


def is_promoted(report: RunReport) -> bool:
    """Whether the registered version became or is champion; true where nothing was to be registered."""
    return all(stage.metrics["promoted"] == 1 for stage in report.stages if stage.name == "register")


def stage_folders(store: Store, stages: tuple[StageReport, ...]) -> dict[str, Path]:
    """The finished folder of every stage that ran or was reused."""
    return {stage.name: store.folder(stage.name, stage.key) for stage in stages}


def _earlier(chain: Chain, report: RunReport) -> list[dict[str, Any]]:
    """Earlier versions of the registered model; none where MLflow is away."""
    if chain.recipe.registry is None:
        return []
    return earlier_versions(chain, report.model.version if report.model else None) or []


def rebuild(root: Path, run_id: str) -> Path:
    """Write `report.html` of a finished run anew, from what lies in the store; returns its path.

    Raises:
        Refusal: when the store has no such run, its report was changed, or an older version wrote it.
    """
    stages_of_run(root, run_id, "RUN")  # refuses what is no run, or leads out of the store
    folder = run_folder(root, run_id, "RUN")
    try:
        recipe = Recipe.model_validate_json(read_regular(folder / RECIPE))
        report = RunReport.model_validate_json(read_regular(folder / "result.json"))
    except (OSError, ValueError) as error:
        raise Refusal(
            where="RUN",
            found=f"{run_id}, without a {RECIPE} and result.json that can be read ({type(error).__name__})",
            allowed="a run that this version of posttrain reported",
            remedy="give its `posttrain run` again: finished stages are kept, and the report is written anew",
        ) from None
    chain, page = new_chain(recipe, Store(root)), folder / "report.html"
    return write_report(recipe, report, stage_folders(chain.store, report.stages), page, earlier=_earlier(chain, report))
