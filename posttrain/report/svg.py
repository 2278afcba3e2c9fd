"""Turns a drawing function into an inline SVG that is deterministic, small, and shares no id with another figure of the page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ACCENT, GOOD, BAD, MUTED, INK = "#2563a8", "#2f855a", "#c2413a", "#9aa5b1", "#27313d"
# Okabe and Ito's colour-blind safe hues; the candidate takes the accent, its ancestors these in order.
ANCESTORS = ("#9aa5b1", "#e0a030", "#8f6bb3", "#3b9c9c")
WIDTH, HEIGHT = 4.5, 2.5  # inches: a phone shows one figure in a row without shrinking its letters

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay text: the page's own font, searchable, and a third of the size
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf0",
    "xtick.color": "#5b6672",
    "ytick.color": "#5b6672",
    "text.color": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}
# Comments, the rule on `*` (it would reach the whole page), fixed size, fonts, namespaces, and the ids that nothing refers to.
_CUTS = re.compile(
    r"""<!--.*?--> | <style.*?</style> | \ (?:width|height)="[\d.]+pt" | font-family:\ [^;"]*;? | \ xmlns(?::\w+)?="[^"]*"
    | xlink:(?=href="\#) | (?<=<g)\ id="[^"]*"
    """,
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Chart:
    """A figure of the report."""

    title: str
    note: str
    svg: Markup


def chart(
    title: str, note: str, draw: Callable[[Axes], object], size: tuple[float, float] = (WIDTH, HEIGHT), group: str = ""
) -> Chart:
    """Draw one figure.

    Args:
        title: heading; two figures of a page differ in group or title.
        note: what the reader should see; empty for none.
        draw: fills the axes.
        size: width and height in inches.
        group: section that the figure stands in, part of its accessible name.
    """
    label = f"{group}: {title}" if group else title
    name = "f" + hashlib.sha256(label.encode()).hexdigest()[:8]
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return Chart(title, note, _inline(buffer.getvalue(), name, label))


def _inline(document: str, name: str, label: str) -> Markup:
    """The `<svg>` element alone, its ids prefixed with the figure's name and its bulk removed."""
    svg = _CUTS.sub("", document[document.index("<svg") :])
    svg = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{name}-", svg)
    width = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0])
    opening = f'<svg role="img" aria-label="{escape(label)}" style="max-width:{width * 4 / 3:.0f}px"'
    # matplotlib has escaped every label, so the text is markup by now.
    return Markup(re.sub(r"\s*\n\s*", " ", svg.replace("<svg", opening, 1)))  # noqa: S704 - matplotlib escapes its texts


def palette(policies: list[str]) -> dict[str, str]:
    """Colour by policy; the last is the candidate."""
    hues = [ANCESTORS[i % len(ANCESTORS)] for i in range(len(policies) - 1)]
    return dict(zip(policies, [*hues, ACCENT], strict=True)) if policies else {}
