"""What a person sees of a run in Prefect's UI: its stages, its gates, and links to MLflow and to the report."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.console import gate_cells, headline
from posttrain.runtime.redaction import clean
from schemas.results import GateReport, RunReport, StageReport

log = logging.getLogger(__name__)
RUN = "run"
"""Key of the artifact that has the whole result."""


def show_run(report: RunReport) -> None:
    """Write the artifacts of a run. A failure is a warning: the run is finished, and its report lies in the store."""
    try:
        create_markdown_artifact(summary(report), key=RUN, description="Stages, gates and promotion")
        create_link_artifact(report.report.as_uri(), link_text="report.html", key="report", description="In the store")
        if address := mlflow_page(report):
            create_link_artifact(address, link_text="MLflow", key="mlflow", description="Metrics, parameters, model")
    except Exception as error:
        log.warning("Prefect: the artifacts are left out: %s", error)


def summary(report: RunReport) -> str:
    """The run in Markdown."""
    parts = [f"**{report.promotion}**", _table(["stage", "seconds", "-", "result"], map(_stage, report.stages))]
    if report.gates:
        parts.append(_table(("gate", "measured", "95% interval", "asked", "-"), map(_gate, report.gates)))
    if report.error:
        parts.append(f"failed in {report.error.stage}: {report.error.message}\n\nnext: {report.error.remedy}")
    parts += [f"warning: {warning}" for warning in report.warnings]
    if report.model:
        parts.append(f"model: `{report.model.uri}`")
    parts.append(f"report: `{report.report}`, run `{report.run_id}`")
    return clean("\n\n".join(parts))


def mlflow_page(report: RunReport) -> str | None:
    """The address of MLflow's model page; None where its server has no pages."""
    if report.model is None or not report.model.tracking_uri.startswith("http"):
        return None
    return f"{report.model.tracking_uri.rstrip('/')}/#/models/{report.model.name}/versions/{report.model.version}"


def _stage(stage: StageReport) -> tuple[str, ...]:
    return (stage.name, f"{stage.seconds:.1f}", "reused" if stage.reused else "built", headline(stage.metrics, stage.outputs))


def _gate(gate: GateReport) -> tuple[str, ...]:
    return (*gate_cells(gate), "passed" if gate.passed else "failed")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
