"""The reward model's figures and numbers on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from posttrain.report.build import write_report
from posttrain.report.reward import charts
from posttrain.report.svg import ACCENT, Chart
from schemas.recipe import Recipe
from schemas.results import RunReport

DOCUMENT = {
    "pairs": 40,
    "held_out_accuracy": 0.8,
    "held_out_accuracy_low": 0.7,
    "held_out_accuracy_high": 0.9,
    "held_out_margin": 1.25,
    "held_out_calibration_error": 0.0512,
    "held_out_reward_mean": 0.1,
    "held_out_reward_std": 0.9,
    "held_out_length_correlation": -0.3,
    "reliability": [
        {"confidence": 0.55, "accuracy": 0.5, "pairs": 10},
        {"confidence": 0.93, "accuracy": 0.9, "pairs": 30},
    ],
    "responses": [{"tokens": 4, "reward": 1.0}, {"tokens": 9, "reward": -0.5}],
}


def test_a_run_without_a_reward_model_has_no_figure():
    assert charts({}) == []


def drawn(chart: Chart) -> int:
    """Points of the accent colour."""
    return len(re.findall(rf"<use[^>]*{ACCENT}", chart.svg))


def test_every_bin_and_every_response_is_drawn():
    calibration, length = charts(DOCUMENT)
    assert drawn(calibration) == len(DOCUMENT["reliability"])
    assert drawn(length) == len(DOCUMENT["responses"])
    assert calibration.note.endswith("calibration error: 0.051.")
    assert length.note == "Correlation of length and reward: -0.3."


def test_the_page_has_a_section_with_the_numbers(recipe: Recipe, run: RunReport, folders: dict[str, Path], tmp_path: Path):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "reward.json").write_text(json.dumps(DOCUMENT))
    page = write_report(recipe, run, {**folders, "reward": tmp_path / "reward"}, tmp_path).read_text("utf-8")
    assert '<section id="reward">' in page
    assert "Measured on 40 held-out pairs." in page
    assert '<td class="n">80%</td><td class="n">0.7 to 0.9</td>' in page
    assert '<section id="reward">' not in write_report(recipe, run, folders, tmp_path).read_text("utf-8")
