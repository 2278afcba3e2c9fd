"""The drawing of a run's lineage: sources at the top, each stage below what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from posttrain.report.svg import ACCENT, INK, MUTED, WIDTH, Chart, chart
from schemas.results import Origin, StageResult

LONGEST = 16  # letters of a name
ROW = 0.62  # inches from one layer to the next


@dataclass(frozen=True)
class Node:
    """A source or a stage, and what it was made from."""

    name: str
    digest: str
    parents: tuple[str, ...]
    is_stage: bool


def drawing(results: Sequence[StageResult]) -> list[Chart]:
    """One figure; none without stages."""
    if not results:
        return []
    nodes = nodes_of(results)
    places = places_of(nodes)
    rows = 1 + max(row for _, row in places.values())

    def draw(axes: Axes) -> None:
        for name, node in nodes.items():
            for parent in node.parents:
                _arrow(axes, places[parent], places[name])
        for name, node in nodes.items():
            _box(axes, node, places[name])
        axes.set(xlim=(0, 1), ylim=(rows - 0.5, -0.5))
        axes.axis("off")

    sources = sum(not node.is_stage for node in nodes.values())
    note = f"{sources} sources (grey) and {len(nodes) - sources} stages (blue), each with the first digits of its SHA-256 digest."
    return [chart("From sources to the model", note, draw, (WIDTH, 0.3 + ROW * rows))]


def nodes_of(results: Sequence[StageResult]) -> dict[str, Node]:
    """Sources and stages by name; a stage of another store, such as one behind a registered base, counts as a source."""
    stages = {result.stage: result for result in results}

    def stage_of(origin: Origin) -> str:
        return origin.name.partition(".")[0]

    found: dict[str, Node] = {}
    for result in results:
        parents = {stage_of(origin) if stage_of(origin) in stages else origin.name: origin for origin in result.inputs}
        for name, origin in parents.items():
            if name not in stages:
                found.setdefault(name, Node(name, origin.digest, (), False))
        found[result.stage] = Node(result.stage, result.digest, tuple(parents), True)
    return found


def places_of(nodes: Mapping[str, Node]) -> dict[str, tuple[float, int]]:
    """By name: how far to the right, from 0 to 1, and the layer, which is below those of all parents; sources are right above."""
    layer: dict[str, int] = {}
    for name, node in nodes.items():  # parents stand before their children
        layer[name] = 1 + max((layer[parent] for parent in node.parents), default=-1 if not node.is_stage else 0)
    for name, node in nodes.items():
        if not node.is_stage:
            layer[name] = min(layer[child] for child, each in nodes.items() if name in each.parents) - 1
    rows: dict[int, list[str]] = {}
    for name, row in layer.items():
        rows.setdefault(row, []).append(name)
    return {name: ((index + 0.5) / len(row), at) for at, row in rows.items() for index, name in enumerate(row)}


def _box(axes: Axes, node: Node, place: tuple[float, int]) -> None:
    name = node.name.removeprefix("data.")
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    colour = ACCENT if node.is_stage else MUTED
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
    axes.text(*place, f"{name}\n{node.digest[:8]}", ha="center", va="center", fontsize=8, color=INK, bbox=box)


def _arrow(axes: Axes, start: tuple[float, int], end: tuple[float, int]) -> None:
    style = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.9, "shrinkA": 12, "shrinkB": 13}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=0.5)
