"""The model card: what it says, and that a text of others stays a text."""

from __future__ import annotations

import pytest
import yaml

from posttrain.report.model_card import Facts, description, model_card
from schemas.estimates import Estimate
from schemas.load import validate_recipe
from schemas.results import GateReport, Origin, TemplateReport

RECIPE = {
    "name": "card", "model": {"source": "hub", "name": "someone/model"}, "data": {"preferences": "p.jsonl"},
    "alignment": {"algorithm": "dpo", "learning_rate": 1e-5, "peft": {"method": "lora"}},
    "evaluation": {"temperature": 0.7, "judge": {"name": "house.judges:polite"}}, "registry": {"model": "card"},
}  # fmt: skip


@pytest.fixture
def card():
    """The card of the recipe, with other facts as given: its front matter and its text."""

    def made(**more):
        facts = {
            "base": "The model someone/model", "hub_name": "someone/model", "licence": "apache-2.0",
            "data": (Origin(name="data.preferences", digest="ab" * 32, location="/home/me/secret place/p.jsonl"),),
            "rows": {"validate": {"preferences_kept": 90.0, "preferences_quarantined": 10.0, "seconds": 1.0}},
            "template": TemplateReport(origin="the tokenizer's own", sha256="c" * 64),
            "metrics": {**Estimate(0.6, (0.5, 0.7)).flat("win_rate_vs_base"), "held_out_prompts": 64.0},
            "gates": (), "warnings": (), "environment": {"git_commit": "abc123"}, **more,
        }  # fmt: skip
        _, front, text = model_card(validate_recipe(RECIPE, "card"), Facts(**facts)).split("---\n", 2)
        return yaml.safe_load(front), text

    return made


def test_the_front_matter_is_what_a_hub_reads(card):
    front, _ = card()
    assert front == {
        "license": "apache-2.0", "base_model": "someone/model", "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["posttrain", "dpo", "lora"],
    }  # fmt: skip


def test_recipe_data_numbers_limits_licence_and_template_are_told(card):
    gate = GateReport(name="win_rate_vs_base", value=0.6, interval=(0.5, 0.7), limit={"lower_bound_above": 0.4}, passed=True)
    _, text = card(gates=(gate,))
    for words in (
        "| align | 1.00e-05 | lora | sigmoid |", "| validate | preferences quarantined | 10 |", f"`{'ab' * 8}`",
        "| win_rate_vs_base | 0.6 | 0.5 to 0.7 |", "| win_rate_vs_base | 0.6 | interval above 0.4 | passed |",
        "64 held-out prompts", "`apache-2.0`", "the tokenizer's own", "temperature 0.7", "`house.judges:polite`", "`abc123`",
        "No benchmark was run",
    ):  # fmt: skip
        assert words in text
    assert "/home/me" not in text
    assert "win_rate_vs_base_low" not in text


def test_a_licence_that_nobody_said_is_not_made_up(card):
    front, text = card(licence=None, hub_name=None)
    assert front["license"] == "unknown"
    assert "base_model" not in front
    assert "is not known" in text


def test_texts_of_others_do_not_become_markup(card):
    _, text = card(warnings=("a | b\n# [x](http://evil) <script>\u202e",))
    assert "\\# \\[x\\](http://evil) \\<script\\>" in text
    assert "\n# [x]" not in text
    assert "\u202e" not in text


def test_what_stands_below_a_name_begins_with_what_the_model_is(card):
    """MLflow lists show the first line, which was the `---` of the front matter."""
    front, text = card()
    said = description(f"---\n{yaml.safe_dump(front)}---\n{text}")
    assert said.startswith("The model someone/model, trained by the recipe `card`")
    assert said == text[text.index("The model someone/model, trained") :]
