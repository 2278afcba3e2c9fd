"""Runs that a person starts through the form in Prefect's pages, in a browser: they complete with what was filled in."""

from __future__ import annotations

import pytest


def test_a_run_with_another_beta_completes(open_form, ended):
    form = open_form("small", "old")
    form.put("Max Drop Rate", "0.22")  # a contract of its own: other tests of this site build that of the recipe
    form.put("Beta", "0.3")
    run = ended(form.submit())
    assert form.errors == []
    assert run.state.name == "Completed", run.state.message
    assert run.parameters["recipe"]["alignment"]["beta"] == 0.3
    assert "align" in run.state.message.partition("built: ")[2]
    assert "filter" not in run.state.message  # what the page fills in by itself changes nothing


@pytest.mark.slow
@pytest.mark.parametrize("pages", ["old", "new"])
def test_a_run_with_another_method_completes(open_form, ended, pages):
    form = open_form("small", pages)
    form.put("Max Drop Rate", "0.23")
    form.choose("Peft", "IA3", among="Alignment")
    form.put("Learning Rate", "0.004" if pages == "old" else "0.005", among="Alignment")
    run = ended(form.submit())
    assert form.errors == []
    assert run.state.name == "Completed", run.state.message
    assert run.parameters["recipe"]["alignment"]["peft"]["method"] == "ia3"
