"""The report of a sweep: reward and win rate against the divergence from the reference, a line per kind of run.

Where the runs train different numbers of parameters, as with different PEFT methods, win rate against that number, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from posttrain.report.page import write_page
from posttrain.report.svg import ACCENT, ANCESTORS, BAD, GOOD, INK, MUTED, Chart, chart
from schemas.estimates import Estimate
from schemas.sweep import Ancestor, SweepPoint, SweepReport

TEMPLATE = "sweep.html.j2"
SIZE = (5.4, 3.7)  # inches
# Of lines, in order; a marker of its own where colours are not seen.
COLOURS, MARKERS = (ACCENT, *ANCESTORS[1:], BAD, GOOD), "os^Dvp"
# Of a label and its point: a line that rises leaves the lower right and the upper left free.
_BESIDE: tuple[dict[str, Any], ...] = ({"xytext": (5, -10)}, {"xytext": (-5, 5), "ha": "right"})
Read = Callable[[SweepPoint], Estimate]


def write_sweep(report: SweepReport, *, written: datetime | None = None) -> None:
    """Write `report.report`, one HTML file; runs are linked by paths relative to it. `written` is its date, by default now."""
    page = {
        "sweep": report,
        "figures": [_reward(report), _win_rate(report), *_sizes(report)],
        "rows": [_row(point, report) for point in report.points],
        "written": written or datetime.now(UTC),
    }
    write_page(TEMPLATE, report.report, page)


def _row(point: SweepPoint, report: SweepReport) -> dict[str, Any]:
    """What the table says of a run."""
    return {
        "point": point,
        "name": point.field.rpartition(".")[2],
        "link": os.path.relpath(point.run.report, report.report.parent),
        "failed": [gate.name for gate in point.run.gates if not gate.passed],
    }


def _reward(report: SweepReport) -> Chart:
    def draw(axes: Axes) -> None:
        _draw_lines(axes, report.points, lambda point: point.reward)
        for ancestor in report.ancestors:
            _draw_ancestor(axes, ancestor)
        axes.set_ylabel("mean reward")

    note = f"Up is better, right is further from the reference. Bars are 95% intervals.{_varied(report)}"
    return chart("Reward against KL", note, draw, SIZE)


def _win_rate(report: SweepReport) -> Chart:
    def draw(axes: Axes) -> None:
        _draw_lines(axes, report.points, lambda point: point.win_rate)
        _mark_chance(axes, report)

    note = f"Held-out prompts won against {_opponents(report)}. The dashed line is chance.{_varied(report)}"
    return chart("Win rate against KL", note, draw, SIZE)


def _sizes(report: SweepReport) -> list[Chart]:
    """Win rate against what alignment trained; nothing where that is the same everywhere."""
    if len({point.trained_parameters for point in report.points}) == 1:
        return []

    def draw(axes: Axes) -> None:
        for label, line, colour, marker in _lines(report.points):
            rates = [point.win_rate for point in line]
            axes.errorbar(
                [point.trained_parameters for point in line], [rate.value for rate in rates], yerr=_errors(rates),
                fmt=marker, color=colour, elinewidth=1.2, markersize=6, label=label,
            )  # fmt: skip
        axes.set(xscale="log", xlabel="parameters that alignment trained")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 10k
        _mark_chance(axes, report)
        _legend(axes)

    return [chart("Win rate against trained parameters", "The dashed line is chance.", draw, SIZE)]


def _varied(report: SweepReport) -> str:
    """What the labels of points say, where it is the same for all lines; otherwise the legend says it."""
    fields = {point.field for point in report.points}
    return f" Beside a point is its {fields.pop()}." if len(fields) == 1 else ""


def _opponents(report: SweepReport) -> str:
    return " and ".join(sorted({point.opponent for point in report.points}))


def _mark_chance(axes: Axes, report: SweepReport) -> None:
    axes.axhline(0.5, color=INK, linestyle="--", linewidth=1, zorder=0.9)
    axes.set_ylabel(f"share of prompts won against {_opponents(report)}")


def _lines(points: Sequence[SweepPoint]) -> Iterator[tuple[str, list[SweepPoint], str, str]]:
    """Label, points in the order of their divergence, colour and marker of each line."""
    for index, label in enumerate(dict.fromkeys(point.line for point in points)):
        line = sorted((point for point in points if point.line == label), key=lambda point: point.kl_per_token.value)
        yield label, line, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _draw_lines(axes: Axes, points: Sequence[SweepPoint], read: Read) -> None:
    """One line per label, its points joined and labelled with what was varied."""
    same = len({point.field for point in points}) == 1
    for index, (label, line, colour, marker) in enumerate(_lines(points)):
        kls, values = [point.kl_per_token for point in line], [read(point) for point in line]
        x, y = [kl.value for kl in kls], [value.value for value in values]
        axes.errorbar(x, y, xerr=_errors(kls), yerr=_errors(values), fmt="none", ecolor=colour, elinewidth=1.2, alpha=0.4)
        axes.plot(x, y, color=colour, marker=marker, markersize=6, label=label if same else f"{label}, by {line[0].field}")
        for point, at in zip(line, zip(x, y, strict=True), strict=True):
            axes.annotate(str(point.value), at, textcoords="offset points", fontsize=8, color=colour, **_BESIDE[index % 2])
    axes.set_xlabel("KL from the reference per token, nats")
    axes.margins(x=0.12, y=0.12)
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, borderaxespad=0.2)


def _draw_ancestor(axes: Axes, ancestor: Ancestor) -> None:
    """The reference at divergence 0; of another one only the reward is known, so it is a line."""
    value = ancestor.reward.value
    if ancestor.is_reference:
        axes.errorbar([0], [value], yerr=_errors([ancestor.reward]), fmt="D", color=INK, ecolor=MUTED, markersize=5)
        axes.annotate(ancestor.name, (0, value), xytext=(-8, 0), textcoords="offset points", ha="right", va="center")
    else:
        axes.axhline(value, color=MUTED, linestyle=":")
        axes.text(
            0.995, value, f"{ancestor.name} (KL not measured)", ha="right", va="bottom", transform=axes.get_yaxis_transform()
        )


def _errors(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Distances from the values down and up to the ends of their intervals; an end on the wrong side of a value is at it."""
    down = [max(0.0, estimate.value - estimate.low) for estimate in estimates]
    return down, [max(0.0, estimate.high - estimate.value) for estimate in estimates]
