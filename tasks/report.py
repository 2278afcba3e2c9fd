"""The end of a run: the printed result, report.html, and the closing of the MLflow run."""

from __future__ import annotations

from pathlib import Path

from posttrain import caution
from posttrain.chain import Chain
from posttrain.gates import check_gates
from posttrain.report.build import write_report
from posttrain.store import write_atomically
from schemas.results import RunReport, StageReport
from tasks import registry, tracking


def build_report(chain: Chain, run_id: str, stages: list[StageReport], refused: str | None, seconds: float) -> RunReport:
    """Write `runs/<run_id>/report.html` and `result.json`, log them, and close the run.

    `refused` is why a gate stopped the candidate, or None.
    """
    folder = chain.store.root / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    numbers = chain.measured()
    registered = next((stage.outputs for stage in stages if stage.name == "register"), None)
    rose = (caution.of_stage(stage.name, stage.metrics) for stage in stages)
    warnings = (*caution.of_recipe(chain.recipe), *filter(None, rose))
    report = RunReport(
        run_id=run_id,
        seconds=round(seconds, 2),
        stages=tuple(stages),
        gates=check_gates(chain.recipe.evaluation.gates, numbers),
        model=registry.model_report(chain, registered["version"]) if registered else None,
        report=folder / "report.html",
        promotion=refused or (registered["promotion"] if registered else "not registered: the recipe has no registry section"),
        warnings=warnings,
    )
    write_report(chain.recipe, report, stage_folders(chain, stages), report.report)
    write_atomically(folder / "result.json", report.model_dump_json(indent=1))
    tracking.finish_run(chain.recipe, chain.store.root, run_id, "FINISHED", numbers, report.report, warnings)
    return report


def is_promoted(stages: list[StageReport]) -> bool:
    """Whether the registered version became or is champion; true where nothing was to be registered."""
    return all(stage.metrics["promoted"] == 1 for stage in stages if stage.name == "register")


def stage_folders(chain: Chain, stages: list[StageReport]) -> dict[str, Path]:
    """The finished folder of every stage that ran or was reused."""
    return {stage.name: chain.store.folder(stage.name, stage.key) for stage in stages}
