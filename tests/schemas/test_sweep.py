"""Sweeps: which recipes a document makes, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from schemas.errors import Refusal
from schemas.sweep import load_sweep

RECIPE = {
    "name": "small",
    "seed": 0,
    "model": {"source": "scratch", "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 400},
    "data": {"corpus": "c.jsonl", "instructions": "i.jsonl", "preferences": "p.jsonl"},
    "pretrain": {"tokens": 1000},
    "sft": {"epochs": 1},
    "alignment": {"algorithm": "dpo", "beta": 0.1, "peft": {"method": "lora"}},
    "evaluation": {
        "judge": {"name": "posttrain.data.samples:sentiment"},
        "gates": {"win_rate_vs_sft": {"lower_bound_above": 0.5}},
    },
    "registry": {"model": "small", "promote_on": "win_rate_vs_sft"},
}
BETAS = {"label": "DPO", "recipe": "recipes/small.yaml", "over": {"field": "alignment.beta", "values": [0.03, 0.3]}}


@pytest.fixture
def written(tmp_path):
    """Write a sweep of these lines beside the recipe; returns its path."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text(yaml.safe_dump(RECIPE))

    def write(*lines: dict) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"name": "betas", "lines": list(lines)}))
        return path

    return write


def test_every_value_is_a_recipe_of_its_own_without_a_registry(written):
    ipo = {**BETAS, "label": "IPO", "set": {"alignment.loss": "ipo", "sft.peft": {"method": "full"}}}
    sweep, planned = load_sweep(written(BETAS, ipo))
    assert sweep.name == "betas"
    settings = [(plan.line.label, plan.value, plan.recipe.alignment.loss, plan.recipe.alignment.beta) for plan in planned]
    assert settings == [
        ("DPO", 0.03, "sigmoid", 0.03), ("DPO", 0.3, "sigmoid", 0.3), ("IPO", 0.03, "ipo", 0.03), ("IPO", 0.3, "ipo", 0.3)
    ]  # fmt: skip
    assert {plan.recipe.registry for plan in planned} == {None}
    assert planned[0].recipe.evaluation.gates.win_rate_vs_sft is not None  # judged and shown, though it stops nothing


def test_a_sweep_of_more_runs_than_anybody_waits_for_is_refused_at_once(written):
    """40 kB of YAML planned 20,000 runs."""
    many = {**BETAS, "over": {"field": "seed", "values": list(range(20_000))}}
    with pytest.raises(Refusal, match="at most 1000 items"):
        load_sweep(written(many))
    lines = [{**BETAS, "label": str(n), "over": {"field": "seed", "values": list(range(600))}} for n in range(2)]
    with pytest.raises(Refusal, match="lines: found 1,200 runs"):
        load_sweep(written(*lines))


# The line, the start of `where`, and words of `found`, `allowed` and `remedy`.
WRONG = {
    "a typo in the sweep": ({**BETAS, "lable": "x"}, "lines.0.lable", "an unknown field", "label", "did you mean label?"),
    "no values": ({**BETAS, "over": {"field": "seed", "values": []}}, "lines.0.over.values", "[]", "at least 1", "correct"),
    "a value twice": ({**BETAS, "over": {"field": "seed", "values": [1, 2, 1]}}, "over.values", "1 twice", "differ", "remove"),
    "no field": ({**BETAS, "over": {"field": "a..b", "values": [1]}}, "lines.0.over.field", "a..b", "pattern", "correct"),
    "a missing recipe": ({**BETAS, "recipe": "no.yaml"}, "line 'DPO' with alignment.beta=0.03", "no such file", "recipe", "path"),
    "a typo in the field": (
        {**BETAS, "over": {"field": "alignment.betta", "values": [1]}},
        "line 'DPO' with alignment.betta=1: alignment.betta", "an unknown field", "beta", "did you mean beta?",
    ),
    "a value that the recipe refuses": (
        {**BETAS, "over": {"field": "alignment.beta", "values": [0.1, -1]}},
        "line 'DPO' with alignment.beta=-1: alignment.beta", "-1", "greater than 0", "correct",
    ),
    "a field below a number": (
        {**BETAS, "set": {"seed.of.chance": 1}},
        "line 'DPO' with alignment.beta=0.03: seed.of.chance", "seed holds 0", "section", "set seed itself",
    ),
    "a field that the swept method does not have": (
        {**BETAS, "set": {"alignment.peft.r": 8}, "over": {"field": "alignment.peft.method", "values": ["lora", "bitfit"]}},
        "line 'DPO' with alignment.peft.method=bitfit: alignment.peft.r", "an unknown field", "method", "remove it",
    ),
    "a field that the line sets": (
        {**BETAS, "set": {"alignment.beta": 0.2}},
        "over.field", "alignment.beta, and set gives alignment.beta", "another field", "remove it from set",
    ),
    "a section of which the line sets a field": (
        {**BETAS, "set": {"alignment.epochs": 2}, "over": {"field": "alignment", "values": [{"algorithm": "dpo"}]}},
        "over.field", "alignment, and set gives alignment.epochs", "another field", "remove it from set",
    ),
    "a judge that gives no rewards": (
        {
            **BETAS, "over": {"field": "seed", "values": [1]},
            "set": {"evaluation.judge": {"source": "endpoint", "url": "https://h/v1", "model": "m"}},
        },
        "line 'DPO' with seed=1: evaluation.judge", "compares two answers", "mode pointwise", "draws rewards",
    ),
    "nothing aligned": (
        {**BETAS, "set": {"alignment": {"algorithm": "none"}, "evaluation.gates": {}}, "over": {"field": "seed", "values": [1]}},
        "line 'DPO' with seed=1: alignment", "none", "an algorithm", "a policy that moved",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "where", "found", "allowed", "remedy"), WRONG.values(), ids=WRONG)
def test_a_line_that_cannot_work_is_refused(written, line, where, found, allowed, remedy):
    with pytest.raises(Refusal) as caught:
        load_sweep(written(line))
    refusal = caught.value
    assert refusal.where.startswith(where)
    assert found in refusal.found
    assert allowed in refusal.allowed
    assert remedy in refusal.remedy


def test_two_lines_of_one_name_are_refused(written):
    with pytest.raises(Refusal) as caught:
        load_sweep(written(BETAS, BETAS))
    assert (caught.value.where, caught.value.found) == ("lines", "the label 'DPO' twice")


def test_a_sweep_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refusal) as caught:
        load_sweep(tmp_path / "none.yaml")
    assert (caught.value.found, caught.value.allowed) == ("no such file", "a sweep in YAML")


SHIPPED = sorted(Path(__file__).resolve().parents[2].glob("deployments/sweeps/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_the_sweeps_that_are_shipped_are_valid_and_have_lines(path):
    sweep, planned = load_sweep(path)
    assert sweep.name == path.stem
    for line in sweep.lines:
        assert len([plan for plan in planned if plan.line == line]) >= 2
