"""The measurements as a table to read, as Markdown beside the published taxonomy, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from posttrain.report.svg import ACCENT, ANCESTORS, BAD, INK, chart

# Lialin et al., arXiv 2303.15647, tables 1 and 2: trained share in percent, and what inference costs more.
PUBLISHED = {
    "lora": ("0.01 to 0.5", "none"),
    "bottleneck": ("0.1 to 6", "extra layers"),
    "prompt_tuning": ("0.1", "extra input"),
    "prefix_tuning": ("0.1 to 4", "extra input"),
    "ia3": ("0.02", "extra gating"),
    "bitfit": ("0.05 to 0.1", "none"),
}
HEAD = ("method", "trained %", "adapter kB", "memory MB", "ms/step", "backward/forward", "latency", "merged", "loss", "rate")
MARKDOWN_HEAD = ("method", "trained %, published", "trained %", "adapter kB", "memory MB", "ms a step", "backward / forward",
                 "inference, published", "latency", "merged", "held-out loss", "learning rate")  # fmt: skip
COLOURS = dict(zip(("reparametrization", "selective", "soft prompts", "scaling", "adapters", "none"),
                   (ACCENT, *ANCESTORS[1:], BAD, INK), strict=True))  # fmt: skip


def cells(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    """One method's numbers as text, by column of `HEAD`."""
    merged = row["merged_seconds_per_token"]
    texts = (
        name,
        f"{100 * row['trainable_share']:.3g}",
        f"{row['adapter_bytes'] / 1e3:,.0f}",
        f"{row['memory_bytes'] / 1e6:.0f}",
        f"{1e3 * row['seconds_per_step']:.0f}",
        f"{row['backward_to_forward']:.2f}",
        added(row["seconds_per_token"], row["base_seconds_per_token"]),
        "cannot merge" if merged is None else added(merged, row["base_seconds_per_token"]),
        f"{row['loss']:.3f}",
        f"{row['learning_rate']:g}",
    )
    return dict(zip(HEAD, texts, strict=True))


def added(seconds: float, base: float) -> str:
    """What a generated token costs more than the base's, in percent of it."""
    return f"{100 * (seconds / base - 1):+.0f}%"


def text(result: Mapping[str, Any]) -> str:
    """Columns of equal width under what was run."""
    rows = [dict(zip(HEAD, HEAD, strict=True)), *(cells(name, row) for name, row in result["methods"].items())]
    widths = {column: max(len(row[column]) for row in rows) for column in HEAD}
    lines = ["  ".join(row[column].rjust(widths[column]) for column in HEAD) for row in rows]
    return "\n".join([about(result), *lines])


def about(result: Mapping[str, Any]) -> str:
    """The conditions in one sentence."""
    starts = {round(row["start_loss"], 3) for row in result["methods"].values()}
    per_token = sorted(1e3 * row["base_seconds_per_token"] for row in result["methods"].values())
    return (
        f"{result['parameters']:,} parameters, {result['steps']} steps of {result['batch']} rows of {result['task']}, "
        f"{result['threads']} thread(s), load {result['load_before']:.1f} to {result['load_after']:.1f}; "
        f"loss at the start {min(starts)} to {max(starts)}; the base takes {per_token[len(per_token) // 2]:.2f} ms a token"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """A table for the README."""
    lines = [_line(MARKDOWN_HEAD), _line(["---"] * len(MARKDOWN_HEAD))]
    for name, row in result["methods"].items():
        cell, (share, overhead) = cells(name, row), PUBLISHED.get(name, ("", ""))
        mine = list(cell.values())
        lines.append(_line([f"`{name}`", share, *mine[1:6], overhead, *mine[6:]]))
    return "\n".join([*lines, "", about(result)])


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def figure(result: Mapping[str, Any]) -> str:
    """Trained share against loss, as an SVG document."""

    def draw(axes: Axes) -> None:
        for family, colour in COLOURS.items():
            points = {name: row for name, row in result["methods"].items() if row["family"] == family}
            shares = {name: 100 * row["trainable_share"] for name, row in points.items()}
            axes.plot(list(shares.values()), [row["loss"] for row in points.values()], "o", color=colour, label=family)
            for name, row in points.items():
                axes.annotate(name, (shares[name], row["loss"]), xytext=(5, 3), textcoords="offset points", fontsize=7.5)
        axes.set(xscale="log", xlabel="trained parameters, percent of all", ylabel=f"held-out loss after {result['steps']} steps")
        axes.margins(x=0.12, y=0.1)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3, handletextpad=0.1)

    svg = str(chart("Trained share against loss", "", draw, (7.5, 4.5)).svg)
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
