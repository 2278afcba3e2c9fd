"""Runs every point of a sweep on one store, where each stage that points share is built once, and draws them together."""

from __future__ import annotations

import time
from pathlib import Path

from flows.inline import run_each
from posttrain.report.frontier import write_sweep
from posttrain.runtime.progress import current
from posttrain.runtime.trees import inside
from posttrain.runtime.writing import write_atomically
from schemas.estimates import Estimate
from schemas.recipe import policies
from schemas.results import Metrics, RunReport
from schemas.sweep import Ancestor, Planned, Sweep, SweepPoint, SweepReport


def run_sweep(sweep: Sweep, planned: list[Planned], store: Path) -> SweepReport:
    """Run a sweep, and write `sweeps/NAME/sweep.html` and `result.json` into the store.

    What an interrupted sweep finished is reused like everything else in the store.

    Raises:
        Refusal: before the first run, for the first thing in any recipe that cannot work.
    """
    started, points = time.monotonic(), []
    for plan, (run, error) in zip(planned, run_each([plan.recipe for plan in planned], store), strict=True):
        if error and run.status == "failed":
            raise error
        points.append(point := _point(plan, run))
        said = f"{point.line}, {point.field} {point.value}: built {point.built}"
        current().note(f"run {len(points)} of {len(planned)}: {said}")
    folder = inside(store, "sweeps", sweep.name, where="name")
    folder.mkdir(parents=True, exist_ok=True)
    report = SweepReport(
        name=sweep.name,
        seconds=round(time.monotonic() - started, 2),
        points=tuple(points),
        ancestors=_ancestors(planned, [point.run for point in points]),
        report=folder / "sweep.html",
    )
    write_sweep(report)
    write_atomically(folder / "result.json", report.model_dump_json(indent=1))
    return report


def _point(plan: Planned, run: RunReport) -> SweepPoint:
    *_, opponent, candidate = policies(plan.recipe)
    return SweepPoint(
        line=plan.line.label,
        field=plan.line.over.field,
        value=plan.value,
        kl_per_token=_estimate(run, "kl_per_token"),
        reward=_estimate(run, f"reward_{candidate}"),
        win_rate=_estimate(run, f"win_rate_vs_{opponent}"),
        opponent=opponent,
        trained_parameters=int(_numbers(run, "align")["trainable_parameters"]),
        run=run,
    )


def _ancestors(planned: list[Planned], runs: list[RunReport]) -> tuple[Ancestor, ...]:
    """Every policy from before alignment once; one that lines do not share has the label of its line in its name."""
    found: dict[tuple[str, bool, Estimate], list[str]] = {}
    for plan, run in zip(planned, runs, strict=True):
        *_, reference, _ = names = policies(plan.recipe)
        for name in names[:-1]:
            found.setdefault((name, name == reference, _estimate(run, f"reward_{name}")), []).append(plan.line.label)
    shared = [name for name, _, _ in found]
    return tuple(
        Ancestor(name=name if shared.count(name) == 1 else f"{name} ({labels[0]})", reward=reward, is_reference=is_reference)
        for (name, is_reference, reward), labels in found.items()
    )


def _estimate(run: RunReport, metric: str) -> Estimate:
    measured = Estimate.of(_numbers(run, "evaluate"), metric)
    return Estimate(measured.value, (measured.low, measured.high))  # of a single prompt the value itself, twice


def _numbers(run: RunReport, stage: str) -> Metrics:
    return next(each.metrics for each in run.stages if each.name == stage)
