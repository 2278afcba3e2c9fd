"""`report.html` of a filter run, from the folder that it has written: what was taken away, by what, and how close it was."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.filters.examples import borderline, clusters, groups
from posttrain.report import curves, funnel
from posttrain.report.page import write_page
from schemas.filtering import Filtering

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write `report.html` beside the tables of a run, and return where it is. The same tables give the same page."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    filtering = Filtering.model_validate(summary["filtering"])
    content = {
        "summary": summary,
        "funnel": funnel.documents(summary),
        "histograms": curves.filter_histograms(summary["metrics"]),
        "borderline": borderline(folder, filtering.resolved()),
        "clusters": clusters(folder),
        "groups": groups(folder),
    }
    write_page("filter.html.j2", folder / REPORT, content)
    return folder / REPORT
