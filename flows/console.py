"""What a person sees in a terminal at the end of a run: its result as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.report.text import number
from schemas.data import CONTRACTS
from schemas.estimates import Estimate
from schemas.results import GateReport, RunReport
from schemas.sweep import SweepReport

EFFECTS = {"fail": "limit"}
"""What a table says of the severity of a check that did not fail."""


def show_report(report: RunReport, console: Console) -> None:
    """Stages, gates, and where to go next."""
    stages = Table("stage", "seconds", "", "what came out", title=f"run {report.run_id[:8]}", title_justify="left")
    for stage in report.stages:
        stages.add_row(
            stage.name, f"{stage.seconds:.1f}", "reused" if stage.reused else "built", headline(stage.metrics, stage.outputs)
        )
    console.print(stages)
    if report.gates:
        gates = Table("gate", "measured", "95% interval", "asked", "", title="gates", title_justify="left")
        for gate in report.gates:
            gates.add_row(*gate_cells(gate), Text("passed", "green") if gate.passed else Text("failed", "red"))
        console.print(gates)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(report.promotion, highlight=False, markup=False, soft_wrap=True, style="red" if report.error else None)
    if report.error:
        console.print(f"next:   {report.error.remedy}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {report.report}", highlight=False, soft_wrap=True)
    if report.model:
        console.print(
            f"model:  {report.model.uri}   (MLFLOW_TRACKING_URI={report.model.tracking_uri})", highlight=False, soft_wrap=True
        )


def show_validation(found: Mapping[str, Any], console: Console) -> None:
    """One table of checks for each data set, and where to go next."""
    for name in (name for name in CONTRACTS if name in found):
        summary = found[name]
        title = f"{name}: {summary['kept']:,} of {summary['rows_in']:,} rows kept, {summary['quarantined']:,} quarantined"
        table = Table("check", "effect", "rows", "share", "limit", title=title, title_justify="left")
        table.add_column("such as", overflow="fold")
        for check in (check for check in summary["checks"] if check["count"]):
            limit = "" if check["limit"] is None else f"{check['limit']:.2%}"
            effect = "failed" if check["failed"] else EFFECTS.get(check["severity"], check["severity"])
            table.add_row(
                check["check"], effect, f"{check['count']:,}", f"{check['share']:.2%}", limit, _places(check["examples"])
            )
        console.print(table)
        for note in summary["notices"]:
            console.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        if tokens := summary.get("tokens"):
            above = f"{tokens['over_limit_share']:.1%} of rows above {tokens['limit']:,}"
            console.print(f"tokens: {number(tokens['mean'])} a row, at most {tokens['max']:,}; {above}", highlight=False)
    console.print(f"rows:   {found['out']}\nreport: {found['report']}", highlight=False, soft_wrap=True)


def _places(places: Sequence[str]) -> str:
    """`file:3, 7, 9`: the file is named once where it is one."""
    split = [place.rpartition(":") for place in places]
    if len({file for file, _, _ in split}) != 1:
        return ", ".join(places)
    return f"{split[0][0]}:{', '.join(row for _, _, row in split)}"


def gate_cells(gate: GateReport) -> tuple[str, str, str, str]:
    """Name, measured value, interval and limits of a gate."""
    interval = f"{gate.interval[0]:.3f} to {gate.interval[1]:.3f}" if gate.interval else "-"
    asked = ", ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in gate.limit.items())
    return gate.name, f"{gate.value:.3f}", interval, asked


def show_sweep(report: SweepReport, console: Console) -> None:
    """One row per run: how far it went from the reference and what that bought."""
    opponents = " and ".join(sorted({point.opponent for point in report.points}))
    columns = ("line", "value", "KL per token", "reward", f"win rate vs {opponents}", "built")
    table = Table(*columns, title=f"sweep {report.name}", title_justify="left")
    for point in report.points:
        numbers = (_with_interval(each) for each in (point.kl_per_token, point.reward, point.win_rate))
        table.add_row(point.line, f"{point.field.rpartition('.')[2]} {point.value}", *numbers, point.built)
    for ancestor in report.ancestors:
        table.add_row(ancestor.name, "", "0" if ancestor.is_reference else "-", _with_interval(ancestor.reward), "-", "")
    console.print(table)
    console.print(f"report: {report.report}", highlight=False, soft_wrap=True)


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})"


# The numbers that say most about a stage, by name; the first ones that it has are shown.
HEADLINES = (
    "preferences_kept", "preferences_quarantined", "instructions_kept", "instructions_quarantined", "documents_kept",
    "documents_rejected", "left_out", "score", "kl", "loss", "validation_loss", "accuracy", "tokens_per_second",
    "win_rate_vs_sft", "win_rate_vs_base", "preference_accuracy", "kl_per_token",
)  # fmt: skip


def headline(metrics: Mapping[str, float], outputs: Mapping[str, str]) -> str:
    """The first numbers of a stage that say most about it."""
    shown = (name for name in HEADLINES if name in metrics and (name != "left_out" or metrics[name]))  # none is no news
    numbers = [f"{name.replace('_', ' ')} {number(metrics[name])}" for name in shown]
    if "version" in outputs:
        numbers.append(f"version {outputs['version']}, {outputs['alias']}")
    return ", ".join(numbers[:4])
