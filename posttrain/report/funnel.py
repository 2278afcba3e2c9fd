"""The data funnel: what came in, what was kept, and what took the rest away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from matplotlib.axes import Axes

from posttrain.report.read import Json
from posttrain.report.svg import BAD, GOOD, MUTED, WIDTH, Chart, chart
from posttrain.report.text import number, share

REASONS = 10


@dataclass(frozen=True)
class Bar:
    """One step of a funnel, in rows."""

    label: str
    count: int
    left: int
    colour: str


def documents(summary: Json) -> list[Chart]:
    """The corpus filter's funnel."""
    if not summary:
        return []
    bars = [
        Bar("documents in", summary["documents_in"], 0, MUTED),
        Bar("kept", summary["kept"], 0, GOOD),
        *_losses(summary["reasons"], summary["kept"], summary["rejected"]),
    ]
    if summary.get("quarantined"):
        bars.append(Bar("quarantined", summary["quarantined"], summary["kept"] + summary["rejected"], BAD))
    return [_funnel("Documents", summary, bars, sum(summary["reasons"].values()) - summary["rejected"])]


def rows(kind: str, summary: Json, read: Mapping[str, Json] | None = None) -> list[Chart]:
    """A contract's funnel; checks that took no row away (warnings, thresholds of the whole) stay in the table.

    Args:
        kind: the data set.
        summary: of the contract.
        read: `rows.json` of the stages that trained on it. Each splits the training rows into examples and rows left out.
    """
    if not summary:
        return []
    losses = {check["check"]: check["count"] for check in summary["checks"] if check["severity"] == "drop" and check["count"]}
    bars = [
        Bar(f"{kind} in", summary["rows_in"], 0, MUTED),
        Bar("kept", summary["kept"], 0, GOOD),
        *_losses(losses, summary["kept"], summary["quarantined"]),
        *(bar for stage, counts in (read or {}).items() for bar in _encoded(stage, counts)),
    ]
    return [_funnel(kind.capitalize(), summary, bars, sum(losses.values()) - summary["quarantined"])]


def _encoded(stage: str, counts: Json) -> list[Bar]:
    """What a stage made of the training rows; nothing is said where it took all."""
    if not counts["left_out"]:
        return []
    losses = _losses(counts["reasons"], counts["examples"], counts["left_out"])
    return [Bar(f"read by {stage}", counts["examples"], 0, GOOD)] + [
        replace(bar, label=f"left out by {stage}: {bar.label}") for bar in losses
    ]


def _losses(reasons: Mapping[str, int], kept: int, lost: int) -> list[Bar]:
    """One bar per reason, largest first; end to end where they add up to what was lost, else all from the same start."""
    ordered = sorted(((name, n) for name, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))
    shown = ordered[:REASONS]
    if len(ordered) > REASONS:
        rest = ordered[REASONS - 1 :]
        shown = [*ordered[: REASONS - 1], (f"{len(rest)} more reasons", sum(n for _, n in rest))]
    adds_up = sum(reasons.values()) == lost
    starts = [kept + sum(n for _, n in shown[:i]) * adds_up for i in range(len(shown))]
    return [Bar(name, n, start, BAD) for (name, n), start in zip(shown, starts, strict=True)]


def _funnel(title: str, summary: Json, bars: list[Bar], surplus: int) -> Chart:
    total = max(bars[0].count, 1)

    def draw(axes: Axes) -> None:
        for y, bar in enumerate(bars):
            # The outline keeps a reason of one row in a million visible.
            axes.barh(y, bar.count, left=bar.left, height=0.34, color=bar.colour, edgecolor=bar.colour, linewidth=1)
            axes.text(0, y - 0.23, bar.label, va="bottom")
            axes.text(total, y - 0.23, f"{number(bar.count)}  ({share(bar.count / total)})", va="bottom", ha="right")
        axes.set(xlim=(-0.005 * total, 1.005 * total), ylim=(len(bars) - 0.6, -0.75))
        axes.axis("off")

    note = "Rows, and their share of those that came in. "
    note += f"{number(summary['train'])} to train on, {number(summary['holdout'])} held out."
    note += " A row may have several reasons." if surplus > 0 else ""
    return chart(f"{title}: from input to training", note, draw, (WIDTH, 0.3 + 0.42 * len(bars)))
