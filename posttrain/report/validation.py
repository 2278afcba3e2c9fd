"""The page of `posttrain validate`: what came in, what was kept, what each check found, and rows that show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
from matplotlib.axes import Axes

from posttrain.report import funnel
from posttrain.report.page import write_page
from posttrain.report.read import Json
from posttrain.report.svg import ACCENT, BAD, INK, MUTED, Chart, chart
from schemas.errors import Refusal

EXAMPLES: Final = 3  # quarantined rows that are shown of each check
CHARACTERS: Final = 600  # of each
COLOURS: Final = {"chosen": ACCENT, "rejected": MUTED, "completion": ACCENT, "tokens": ACCENT}


def write_validation(folder: Path, tokens: Mapping[str, Json], refusal: Refusal | None) -> Path:
    """Write `report.html` beside `summary.json` and `quarantine.parquet`, from which it is made; gives its path.

    Args:
        folder: that `validate` wrote into.
        tokens: `token_view` by data set; empty where no tokenizer was given.
        refusal: why the rows may not be trained on, if they may not.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    shown = _quarantined(folder / "quarantine.parquet")
    sets = [_data_set(name, each, tokens.get(name), shown.get(name, {})) for name, each in summary.items()]
    write_page("validation.html.j2", folder / "report.html", {"sets": sets, "refusal": refusal.parts if refusal else None})
    return folder / "report.html"


def _data_set(name: str, summary: Json, tokens: Json | None, shown: Mapping[str, list[Json]]) -> dict[str, Any]:
    checks = [check for check in summary["checks"] if check["count"] or check["failed"] or check["limit"] is not None]
    charts = [*funnel.rows(name, summary), *_lengths(name, summary["length_histogram"]), *_tokens(name, tokens)]
    return {
        "name": name,
        "summary": summary,
        "checks": sorted(checks, key=lambda check: (not check["failed"], -check["count"])),
        "silent": [check["check"] for check in summary["checks"] if check not in checks],
        "charts": charts,
        "tokens": tokens,
        "examples": shown,
    }


def _quarantined(path: Path) -> dict[str, dict[str, list[Json]]]:
    """Data set → reason → a few rows, their values cut."""
    rows = (
        pl.scan_parquet(path, glob=False)
        .with_columns(pl.col("values").str.slice(0, CHARACTERS))
        .explode("reasons")
        .with_columns(code=pl.col("reasons").str.split(":").list.first())
        .group_by("source", "code", maintain_order=True)
        .head(EXAMPLES)
        .collect()
    )
    found: dict[str, dict[str, list[Json]]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row["source"], {}).setdefault(row["code"], []).append(row)
    return found


def _lengths(name: str, histogram: Json) -> list[Chart]:
    """Characters of each side of the rows that are kept."""
    sides = [side for side in histogram if side != "edges" and sum(histogram[side])]
    note = "Rows that no check drops." if sides else ""
    return [_histogram(name, "Length of the answers", note, "characters", histogram, sides)] if sides else []


def _tokens(name: str, view: Json | None) -> list[Chart]:
    if not view or not sum(view["histogram"]["tokens"]):
        return []
    note = f"Prompt and longest answer of {view['measured']:,} of {view['rows']:,} rows. The dashed line is the limit."
    return [_histogram(name, "Tokens of the rows", note, "tokens", view["histogram"], ["tokens"], view["limit"])]


def _histogram(
    name: str, title: str, note: str, unit: str, histogram: Json, sides: list[str], limit: int | None = None
) -> Chart:  # fmt: skip
    """Counts over edges that double, so that each is as wide as the others."""
    edges = histogram["edges"]

    def draw(axes: Axes) -> None:
        places = range(len(edges))
        for side in sides:
            axes.stairs(histogram[side], places, color=COLOURS[side], fill=True, alpha=0.35)
            axes.stairs(histogram[side], places, color=COLOURS[side], label=side, linewidth=1.2)
        step = max(1, len(edges) // 6)
        axes.set_xticks(list(places)[::step], [f"{edge:,}" for edge in edges[::step]])
        axes.set(xlabel=f"{unit} (each bin twice as wide as the one before)", ylabel="rows")
        if limit is not None:
            axes.axvline(_place(edges, limit), color=BAD, linestyle="--", linewidth=1)
            axes.annotate(f"limit {limit:,}", (_place(edges, limit), 1), xycoords=("data", "axes fraction"), va="top", color=INK)
        if len(sides) > 1:
            axes.legend(loc="upper right")

    return chart(title, note, draw, group=name)


def _place(edges: list[int], value: int) -> float:
    """Where a value is among edges that are drawn at equal distances."""
    at = next((at for at in range(len(edges) - 1) if value < edges[at + 1]), len(edges) - 1)
    if at == len(edges) - 1:
        return float(at)
    return at + (value - edges[at]) / (edges[at + 1] - edges[at])
