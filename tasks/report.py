"""The end of a run, however it ends: the printed result, report.html, and the closing of the MLflow run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.evaluation.gates import gates_of
from posttrain.pipeline.chain import Chain
from posttrain.report.build import write_report
from posttrain.runtime import redaction
from posttrain.runtime.writing import write_atomically
from posttrain.training import caution
from schemas.errors import GateRefused, Refusal
from schemas.results import Failure, GateReport, Metrics, RunReport, StageReport, TemplateReport
from tasks import registry, tracked_stages, tracking
from tasks.drift import kept_drift
from tasks.open_runs import run_folder


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
    folders = stage_folders(chain, report.stages)
    write_report(chain.recipe, report, folders, report.report)
    write_atomically(report.report.with_name("result.json"), report.model_dump_json(indent=1))
    for name in (report.report.name, "result.json"):
        chain.store.keep(report.report.with_name(name))
    tracked_stages.log_all(chain, report.run_id)
    with tempfile.TemporaryDirectory() as scratch:
        public = write_report(chain.recipe, report, folders, Path(scratch), rows=False) if _private(chain) else None
        tracking.finish_run(chain.recipe, chain.store.root, report, _measured(chain, report.stages, report.run_id), public)


def _private(chain: Chain) -> bool:
    return chain.recipe.tracking.rows == "none"


def is_promoted(report: RunReport) -> bool:
    """Whether the registered version became or is champion; true where nothing was to be registered."""
    return all(stage.metrics["promoted"] == 1 for stage in report.stages if stage.name == "register")


def stage_folders(chain: Chain, stages: tuple[StageReport, ...]) -> dict[str, Path]:
    """The finished folder of every stage that ran or was reused."""
    return {stage.name: chain.store.folder(stage.name, stage.key) for stage in stages}
