"""The report of a sweep, from numbers made by hand."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from posttrain.report.frontier import write_sweep
from schemas.estimates import Estimate
from schemas.results import GateReport, RunReport, StageReport
from schemas.sweep import Ancestor, SweepPoint, SweepReport

WRITTEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def around(value: float) -> Estimate:
    """An interval of 0.02 on each side."""
    return Estimate(value, (round(value - 0.02, 3), round(value + 0.02, 3)))


def point(
    folder: Path, line: str, value: float, kl: float, reward: float, trained: int = 1000, field: str = "alignment.beta"
) -> SweepPoint:  # fmt: skip
    """A run that took SFT from the store and built its alignment; its gate allows a KL of 0.2."""
    stages = [("sft", True), ("align", False)]
    run = RunReport(
        run_id=f"{value}".ljust(32, "0"), seconds=61.0, model=None, promotion="",
        stages=tuple(StageReport(name=n, key="k" * 64, reused=r, seconds=1.0, metrics={}, outputs={}) for n, r in stages),
        gates=(GateReport(name="kl_per_token", value=kl, interval=None, limit={"max": 0.2}, passed=kl <= 0.2),),
        report=folder / "runs" / str(value) / "report.html",
    )  # fmt: skip
    return SweepPoint(
        line=line, field=field, value=value, kl_per_token=around(kl), reward=around(reward), win_rate=around(reward),
        opponent="sft", trained_parameters=trained, run=run,
    )  # fmt: skip


@pytest.fixture
def sweep(tmp_path) -> SweepReport:
    folder = tmp_path / "sweeps" / "s"
    folder.mkdir(parents=True)
    return SweepReport(
        name="s & t",
        seconds=100.0,
        points=(
            point(tmp_path, "DPO", 0.03, kl=0.4, reward=0.8),
            point(tmp_path, "DPO", 0.1, kl=0.15, reward=0.7),
            point(tmp_path, "<b>PPO</b>", 0.05, kl=0.1, reward=0.75),
        ),
        ancestors=(
            Ancestor(name="base", reward=around(0.5), is_reference=False),
            Ancestor(name="sft", reward=around(0.52), is_reference=True),
        ),
        report=folder / "sweep.html",
    )


@pytest.fixture
def page(sweep) -> str:
    write_sweep(sweep, written=WRITTEN)
    return sweep.report.read_text("utf-8")


def test_the_page_is_self_contained_and_escapes_what_it_is_told(page):
    assert not re.findall(r"<script|<link|<img|src=|@import|https?:", page)
    assert "<title>s &amp; t</title>" in page
    assert "<b>PPO</b>" not in page
    assert "&lt;b&gt;PPO&lt;/b&gt;" in page


def test_the_figures_label_every_point_with_its_value_and_name_the_ancestors(page):
    reward, win_rate = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for figure in (reward, win_rate):
        assert all(f">{value}<" in figure for value in (0.03, 0.1, 0.05))
        assert ">DPO<" in figure
    assert "base (KL not measured)" in reward
    assert ">sft<" in reward
    assert "share of prompts won against sft" in win_rate
    assert page.count("Beside a point is its alignment.beta.") == 2


def test_the_legend_says_what_varies_where_lines_differ_in_it(sweep, tmp_path):
    other = point(tmp_path, "longer", 3, kl=0.1, reward=0.6, field="alignment.epochs")
    write_sweep(sweep.model_copy(update={"points": (*sweep.points, other)}), written=WRITTEN)
    page = sweep.report.read_text("utf-8")
    assert page.count(">DPO, by alignment.beta<") == page.count(">longer, by alignment.epochs<") == 2
    assert "Beside a point" not in page


def test_runs_that_train_different_numbers_of_parameters_are_compared_by_them(sweep, tmp_path):
    more = point(tmp_path, "BitFit", 0.1, kl=0.1, reward=0.6, trained=10)
    write_sweep(sweep.model_copy(update={"points": (*sweep.points, more)}), written=WRITTEN)
    *_, sizes = re.findall(r"<svg.*?</svg>", sweep.report.read_text("utf-8"), re.DOTALL)
    assert "parameters that alignment trained" in sizes
    assert ">1k<" in sizes
    assert all(f">{label}<" in sizes for label in ("DPO", "&lt;b&gt;PPO&lt;/b&gt;", "BitFit"))


def test_the_table_has_intervals_failed_gates_and_links_relative_to_the_page(page):
    first = page[page.index("<td>DPO</td>") :].split("</tr>")[0]
    for text in (">beta=0.03<", "0.380 to 0.420", "0.780 to 0.820", "<td>kl_per_token</td>", "<td>align</td>"):
        assert text in first
    links = re.findall(r'href="([^"#]+)"', page)
    assert links == [f"../../runs/{value}/report.html" for value in (0.03, 0.1, 0.05)]


def test_equal_sweeps_are_equal_pages(page, sweep):
    write_sweep(sweep, written=WRITTEN)
    assert sweep.report.read_text("utf-8") == page
