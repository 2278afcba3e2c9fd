"""Training curves as small multiples, and the histograms of the corpus filter."""

from __future__ import annotations

import fnmatch
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from posttrain.report.read import Json
from posttrain.report.svg import ACCENT, ANCESTORS, BAD, MUTED, Chart, chart
from posttrain.report.text import number

POINTS = 300


class Panel(NamedTuple):
    """What is drawn together, in which unit, and what to look for."""

    metrics: tuple[str, ...]
    """`*` stands for the rest of a name."""
    unit: str
    said: str


PANELS = {
    "loss": Panel(("loss", "validation_loss"), "loss", "A held-out loss that rises while the other falls is overfitting."),
    "reward margin": Panel(("margin",), "β·nats", "By how much chosen is preferred over rejected, compared with the reference."),
    "preference accuracy": Panel(("accuracy",), "share of pairs", "Dashed is chance."),
    "label accuracy": Panel(("label_accuracy",), "share of answers", "Dashed is chance."),
    "reward of chosen and rejected": Panel(("reward_chosen", "reward_rejected"), "β·nats", "Both may fall; the gap should grow."),
    "reward of desirable and undesirable": Panel(
        ("reward_desirable", "reward_undesirable"), "β·nats", "Both may fall; the gap should grow."
    ),
    "divergence on other prompts' answers": Panel(("divergence",), "nats", "KTO's estimate of the distance to the reference."),
    "log-probability": Panel(
        ("logprob_chosen", "logprob_rejected", "logprob_desirable", "logprob_undesirable"),
        "nats per answer",
        "Good answers that become unlikely are a warning.",
    ),
    "log-ratio to the reference per token": Panel(
        ("kl_chosen", "kl_rejected", "kl_desirable", "kl_undesirable"), "nats per token", "0 is the reference."
    ),
    "reward of the responses, and what watches": Panel(
        ("score", "monitor_*"), "reward", "A monitor that falls while the reward rises is reward hacking."
    ),
    "reward on held-out prompts": Panel(("held_out_reward", "held_out_monitor_*"), "reward", "Nothing trains on these."),
    "share of prompts whose responses have one reward": Panel(
        ("groups_without_variance",), "share of prompts", "Such prompts teach nothing."
    ),
    "divergence from the reference per token": Panel(("kl", "kl_k3"), "nats per token", "What the penalty holds down."),
    "entropy per token": Panel(("entropy",), "nats per token", "Near 0 the policy has one answer to everything."),
    "share of clipped ratios": Panel(("clip_fraction",), "share of tokens", "Much of it: the steps are too large."),
    "explained variance of the critic": Panel(
        ("explained_variance_mc", "explained_variance"), "share of variance", "At 0 or below the critic knows nothing."
    ),
    "value less return, mean": Panel(("value_bias",), "reward", "The critic's bias; 0 is none."),
    "tokens per response": Panel(("response_tokens",), "tokens", "Growth without gain is reward for length."),
    "share of responses that ended": Panel(("eos_share",), "share of responses", "The others were cut."),
    "weight of the divergence": Panel(("kl_coefficient",), "β", "As the controller sets it."),
    "learning rate": Panel(("learning_rate",), "factor of a step", "Warm-up and decay."),
}
_COLOURS = (ACCENT, *ANCESTORS[1:])
# Alignment's losses have units of their own: some are of pairs, some of answers, PPO's is of several parts.
_LOSS_UNITS = {"pretrain": "nats per token", "sft": "nats per token", "reward": "nats per pair"}
# Of metrics of documents whose name is none, by pattern.
_UNITS = {
    "mean_word_length": "characters", "*_characters": "share of all", "words": "number", "stop_words": "number",
    "sentences": "number", "curly_brackets": "number", "lorem_ipsum": "number",
}  # fmt: skip


def stage_curves(stage: str, points: list[Json]) -> list[Chart]:
    """One figure per panel of which the stage logged a metric."""
    logged = sorted({metric for point in points for metric, value in point.items() if value is not None})
    drawn = {title: [m for wanted in panel.metrics for m in fnmatch.filter(logged, wanted)] for title, panel in PANELS.items()}
    return [_panel(stage, panel, metrics, points) for panel, metrics in drawn.items() if metrics]


def _panel(stage: str, panel: str, metrics: list[str], points: list[Json]) -> Chart:
    series = {metric: [(p["step"], p[metric]) for p in points if p.get(metric) is not None] for metric in metrics}

    def draw(axes: Axes) -> None:
        for (metric, values), colour in zip(series.items(), _COLOURS, strict=False):
            xy = thinned(np.array(values, dtype=float))
            marker = "o" if len(xy) <= 30 else ""
            axes.plot(xy[:, 0], xy[:, 1], color=colour, marker=marker, markersize=3, label=metric)
        axes.set(xlabel="optimizer step", ylabel=_LOSS_UNITS.get(stage, "loss") if panel == "loss" else PANELS[panel].unit)
        axes.margins(x=0.02)
        if len(series) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, borderaxespad=0.2)
        if panel.endswith("accuracy"):
            axes.axhline(0.5, color=MUTED, linestyle="--", linewidth=1)

    ends = "; ".join(f"{metric} {number(_rounded(v[0][1]))} → {number(_rounded(v[-1][1]))}" for metric, v in series.items())
    return chart(panel, f"{PANELS[panel].said} {ends}.", draw, (3.6, 2.2), group=stage)


def thinned(xy: np.ndarray) -> np.ndarray:
    """At most 300 of the points (n, 2): the lowest and the highest of each of 150 neighbourhoods, so that a spike survives."""
    if len(xy) <= POINTS:
        return xy
    pieces = np.array_split(np.arange(len(xy)), POINTS // 2)
    kept = {int(piece[pick(xy[piece, 1])]) for piece in pieces for pick in (np.argmin, np.argmax)}
    return xy[sorted(kept)]


def filter_histograms(metrics: dict[str, Json]) -> list[Chart]:
    """One histogram per metric of a document, with its thresholds drawn in and the rejected side shaded."""
    return [_histogram(name, metric) for name, metric in metrics.items() if sum(metric["counts"])]


def _histogram(name: str, metric: Json) -> Chart:
    edges, given = metric["edges"], [limit for limit in (metric["min"], metric["max"]) if limit is not None]
    filled = np.flatnonzero(metric["counts"])
    # From the first filled bin to the last, and as far as a threshold; one beyond every bin would only squash the picture.
    inside = [limit for limit in given if edges[0] <= limit <= edges[-1]]
    first, last = min(edges[filled[0]], *inside, edges[-1]), max(edges[filled[-1] + 1], *inside, edges[0])
    widths = np.diff(edges)

    def draw(axes: Axes) -> None:
        axes.stairs(metric["counts"], edges, fill=True, color=ACCENT, alpha=0.75)
        axes.set_yscale("log")  # the tail beyond a threshold is what matters, and it is thin
        if widths.max() > 100 * widths.min():  # bins that grow by factors
            axes.set_xscale("symlog", linthresh=float(widths.min()))
        axes.set(xlim=(first, last), ylim=(0.7, None), xlabel=_with_unit(name), ylabel="documents")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: number(value))
        axes.minorticks_off()
        for limit, outer in ((metric["min"], first), (metric["max"], last)):
            if limit in inside:
                axes.axvline(limit, color=BAD, linewidth=1.4, clip_on=False)
                axes.axvspan(limit, outer, color=BAD, alpha=0.1, linewidth=0)

    limits = {"at least": metric["min"], "at most": metric["max"]}
    kept = " and ".join(f"{word} {number(limit)}" for word, limit in limits.items() if limit is not None)
    note = f"Documents by this metric; {f'kept: {kept}' if kept else 'no threshold'}."
    return chart(name, note, draw, (3.6, 2.0), group="filter")


def _with_unit(name: str) -> str:
    """What a metric of documents is called on its axis."""
    unit = next((unit for pattern, unit in _UNITS.items() if fnmatch.fnmatch(name, pattern)), None)
    return name.replace("_", " ") + (f", {unit}" if unit else "")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
