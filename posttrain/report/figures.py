"""Figures of the decision: win rates, reward against KL, length against reward."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes

from posttrain.report.read import Json
from posttrain.report.samples import judged
from posttrain.report.svg import ACCENT, BAD, GOOD, HEIGHT, INK, MUTED, WIDTH, Chart, chart, palette
from posttrain.report.text import interval, number

POINTS = 300


def win_rates(rows: list[Json]) -> list[Chart]:
    """One interval per opponent against the line of chance: green lies clear above it, red clear below."""

    def draw(axes: Axes) -> None:
        for y, row in enumerate(rows):
            low, high = row["interval"]
            colour = GOOD if low > 0.5 else BAD if high < 0.5 else MUTED
            axes.plot([low, high], [y, y], color=colour, linewidth=9, alpha=0.35, solid_capstyle="butt")
            axes.plot([row["value"]], [y], "o", color=colour, markersize=7)
            axes.text(
                0,
                y - 0.27,
                f"against {row['opponent']}: {number(row['value'])} ({interval(row['interval'])})",
                va="bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
        axes.axvline(0.5, color=INK, linestyle="--", linewidth=1, zorder=0.9)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.6, -0.9), yticks=[], xlabel="share of prompts won")
        axes.spines["left"].set_visible(False)

    note = "Share of held-out prompts that the candidate wins, with the 95% interval. The dashed line is chance."
    return [chart("Win rates", note, draw, (WIDTH, 0.75 + 0.6 * len(rows)))] if rows else []


def frontier(policies: list[Json], earlier: Sequence[Json] = ()) -> list[Chart]:
    """Reward against KL from the reference: a point per policy and earlier version, a line for one whose KL was not measured."""
    rewarded = [policy for policy in policies if policy.get("reward") is not None]
    points = [policy for policy in rewarded if policy.get("kl_per_token") is not None]
    kls = [0.0, *(point["kl_per_token"] for point in (*points, *earlier))]
    left, right = min(kls), max(kls) or 1.0  # an estimate of a small KL can lie below 0
    colours = palette([policy["policy"] for policy in policies])

    def draw(axes: Axes) -> None:
        for point in earlier:
            _point(axes, point, MUTED, "s")
        for point in points:
            _point(axes, point, colours[point["policy"]], "o")
        for policy in rewarded:
            if policy not in points:
                axes.axhline(policy["reward"], color=colours[policy["policy"]], linestyle=":")
                axes.text(1.27 * right, policy["reward"], f"{policy['policy']} (KL not measured)", ha="right", va="bottom")
        axes.margins(y=0.15)
        axes.set(xlim=(left - 0.06 * right, 1.3 * right), xlabel="KL per token, nats", ylabel="mean reward, the judge's unit")

    note = "Up is better, right is further from the reference. Bars are 95% intervals."
    note += " Squares are earlier versions under the same judge, each against its own reference." if earlier else ""
    return [chart("Reward against KL", note, draw)] if points else []


def _point(axes: Axes, point: Json, colour: str, marker: str) -> None:
    x, y = point["kl_per_token"], point["reward"]
    if point.get("reward_interval"):
        axes.plot([x, x], point["reward_interval"], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
    axes.plot([x], [y], marker, color=colour, markersize=7)
    axes.annotate(point["policy"], (x, y), xytext=(8, 0), textcoords="offset points", va="center")


def length_against_reward(samples: pl.DataFrame | None, policies: list[str]) -> list[Chart]:
    """Characters of each sampled response against its reward; a slope is a judge that pays for length."""
    policies = judged(samples, policies) if samples is not None else []
    if samples is None or not policies:
        return []
    columns = {
        policy: samples.select(length=pl.col(f"response_{policy}").str.len_chars(), reward=f"reward_{policy}").drop_nulls()
        for policy in policies
    }

    def draw(axes: Axes) -> None:
        for (policy, points), colour in zip(columns.items(), palette(policies).values(), strict=True):
            some = points.gather_every(-(-points.height // POINTS) or 1)
            axes.plot(
                some["length"].to_numpy(),
                some["reward"].to_numpy(),
                "o",
                color=colour,
                markersize=4,
                alpha=0.6,
                markeredgewidth=0,
                label=policy,
            )
        axes.set(xlabel="characters in the response", ylabel="reward, the judge's unit")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=4, handletextpad=0.1)

    last = columns[policies[-1]]
    slope = last.select(pl.corr("length", "reward")).item() if last.height > 1 else None
    note = f"Correlation of length and reward for {policies[-1]}: {number(None if slope is None else round(slope, 3))}."
    return [chart("Length against reward", note, draw, (WIDTH, HEIGHT + 0.3))]


def length_histogram(histogram: Json) -> list[Chart]:
    """Lengths of chosen and rejected responses in the data."""

    def draw(axes: Axes) -> None:
        for side, colour in (("rejected", MUTED), ("chosen", ACCENT)):
            axes.stairs(histogram[side], histogram["edges"], color=colour, fill=True, alpha=0.35)
            axes.stairs(histogram[side], histogram["edges"], color=colour, label=side, linewidth=1.2)
        axes.set(xlabel="length of the response, characters", ylabel="pairs")
        axes.legend(loc="upper right")

    note = "Where chosen lies to the right of rejected, a model can win by length alone."
    return [chart("Length of chosen and rejected", note, draw)] if histogram else []
