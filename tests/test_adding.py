"""Adding one of each kind as CONTRIBUTING says: a row in a table and a function, and everything that reads the table has it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.stages import stage_flow
from posttrain.data import preferences
from posttrain.data.kinds import KINDS
from posttrain.data.pairs import pair
from posttrain.data.shapes import Shape
from posttrain.filters.rules import broken, reasons
from posttrain.losses.preference import VARIANTS, Hyperparameters, Variant, preference_loss
from posttrain.peft.methods import METHODS, Applied, Method
from posttrain.peft.wrap import trainable_state, wrap
from posttrain.pipeline.stages import WORK, StageWork
from posttrain.rewards.functions import load_function
from posttrain.runtime.store import Built
from schemas.filter_rules import Bounds, FilterRules
from schemas.load import validate_recipe
from schemas.peft import Method as MethodSection
from schemas.recipe import STAGES, Stage
from tasks import tracking
from tasks.stage import stage_task


@pytest.fixture
def module(monkeypatch) -> Callable[..., str]:
    """Makes a module of functions that a table can name; returns its name."""

    def make(name: str, **functions) -> str:
        made = ModuleType(name)
        vars(made).update(functions)
        monkeypatch.setitem(sys.modules, name, made)
        return name

    return make


@stage_task
def toy(chain, out) -> Built:
    """Counts the stages of the recipe."""
    (out / "count.txt").write_text(str(len(chain.recipe.stages)))
    return Built({"count": float(len(chain.recipe.stages))}, {"count": "count.txt"})


def test_a_stage_runs_is_tracked_and_is_reused_until_what_its_row_reads_changes(module, monkeypatch, tmp_path):
    """Its section is that of evaluation, so that every recipe has it: the fourth stage after validate, sft and evaluate."""
    row = StageWork(
        version=1,
        fields=lambda recipe, stage: {"prompts": recipe.section(stage).prompts},
        inputs=lambda chain, stage: (),
        task=f"{module('toy_stage', toy=toy)}:toy",
        writes=("count.txt",),
        pool="cpu",
        encodes=False,
    )
    monkeypatch.setitem(STAGES, "toy", Stage("evaluation"))
    monkeypatch.setitem(WORK, "toy", row)

    def run(seed: int, prompts: int) -> tuple[float, bool]:
        document = {
            "name": "toy", "model": {"source": "local", "path": "m"}, "data": {"instructions": "i.jsonl"}, "sft": {},
            "seed": seed, "evaluation": {"prompts": prompts},
        }  # fmt: skip
        recipe = validate_recipe(document, "toy.yaml")
        assert recipe.stages == ("validate", "sft", "evaluate", "toy")
        done = toy.fn(recipe, str(tmp_path), tracking.start_run(recipe, tmp_path))
        report = getattr(done, "data", done)
        return report.metrics["count"], report.reused

    assert stage_flow("toy").description == "Counts the stages of the recipe."
    assert [run(0, 8), run(1, 8), run(1, 9)] == [(4.0, False), (4.0, True), (4.0, False)]


class Norms(MethodSection):
    """The section of the method."""

    method: Literal["last_norm"]


def last_norm(model, request) -> Applied:
    """Train the norm after the last block."""
    model.requires_grad_(False)
    model.model.norm.requires_grad_(True)
    return Applied(model)


def test_a_peft_method_trains_what_its_function_says(module, monkeypatch):
    module("posttrain.peft.toy", last_norm=last_norm)
    monkeypatch.setitem(METHODS, "last_norm", Method("selective", "toy:last_norm", from_peft=False))
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    wrapped = wrap(LlamaForCausalLM(LlamaConfig(**shape)), Norms(method="last_norm"), 0, "sft.peft")
    assert list(trainable_state(wrapped)) == ["model.norm.weight"]


def test_a_loss_is_asked_for_by_its_name(monkeypatch):
    """chosen (-4 + 6) / 2 = 1, rejected (-9 + 3) / 3 = -2. The toy is r - c = -3; rewards are half of each."""
    monkeypatch.setitem(VARIANTS, "toy", Variant(lambda c, r, h: r - c, per_token=True))
    policy, reference, lengths = (torch.tensor([pair]) for pair in ([-4.0, -9.0], [-6.0, -3.0], [2.0, 3.0]))
    losses, rewards = preference_loss(policy, reference, lengths, "toy", Hyperparameters(beta=0.5))
    assert (losses.tolist(), rewards.tolist()) == ([-3.0], [[0.5, -1.0]])


class Rules(FilterRules):
    """The rules with one more metric."""

    exclamations: Bounds | None = None


def test_a_filter_metric_is_judged_by_the_field_of_its_name():
    found = reasons(broken({"exclamations": np.array([0.0, 3.0])}, Rules(exclamations=Bounds(max=2))), 2)
    assert found.to_list() == [[], ["exclamations > 2"]]


def test_a_reward_is_a_function_of_the_users(module):
    name = module("toy_rewards", length=lambda prompts, responses: [len(each) for each in responses])
    assert load_function(f"{name}:length", "alignment.reward")(["?", "?"], ["yes", "no"]) == [3.0, 2.0]


def test_a_shape_of_rows_is_read_by_its_columns():
    shape = Shape("toy", ("question", "good", "bad"), lambda row, reading: pair(row["question"], row["good"], row["bad"]))
    pairs = replace(KINDS["preferences"], shapes=(*preferences.SHAPES, shape))
    (row,) = pairs.normalise([(1, {"question": "Why?", "good": "So.", "bad": "No."})], "toy.jsonl", pytest.fail)
    assert [row[name][0]["content"] for name in ("prompt", "chosen", "rejected")] == ["Why?", "So.", "No."]
