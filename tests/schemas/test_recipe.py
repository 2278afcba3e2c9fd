"""What a recipe means: its stages, the policies it compares, its defaults and the rules between its sections.

Expected values are written by hand from `schemas/`.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.evaluation import Gates
from schemas.filter_presets import PRESETS
from schemas.filter_rules import Bounds, FilterRules
from schemas.filtering import Filtering
from schemas.model import ScratchModel
from schemas.recipe import Recipe, policies

DATA = {"corpus": "c.jsonl", "instructions": "i.jsonl", "preferences": "p.jsonl"}
PRETRAIN = {"pretrain": {"tokens": 1000}}
SFT: dict[str, Any] = {"sft": {}}
DPO = {"alignment": {"algorithm": "dpo"}}
REGISTRY = {"registry": {"model": "m"}}


def recipe(*sections: dict[str, Any], source: str = "local") -> Recipe:
    """A recipe of the given sections on an existing model."""
    model = {"source": source} | ({"path": "m"} if source == "local" else {})
    document: dict[str, Any] = {"name": "t", "model": model, "data": DATA}
    for section in sections:
        document |= section
    return Recipe.model_validate(document)


STAGES = [
    ((PRETRAIN,), "validate filter pretrain evaluate", "base"),
    ((SFT,), "validate sft evaluate", "base sft"),
    ((DPO,), "validate align evaluate", "base aligned"),
    ((PRETRAIN, SFT), "validate filter pretrain sft evaluate", "base sft"),
    ((PRETRAIN, DPO), "validate filter pretrain align evaluate", "base aligned"),
    ((SFT, DPO), "validate sft align evaluate", "base sft aligned"),
    ((PRETRAIN, SFT, DPO), "validate filter pretrain sft align evaluate", "base sft aligned"),
    ((PRETRAIN, SFT, DPO, REGISTRY), "validate filter pretrain sft align evaluate register", "base sft aligned"),
    ((SFT, {"alignment": {"algorithm": "none"}}, REGISTRY), "validate sft evaluate register", "base sft"),
]


@pytest.mark.parametrize(("sections", "stages", "compared"), STAGES, ids=[row[1] for row in STAGES])
def test_the_sections_decide_stages_and_policies(sections, stages, compared):
    asked = recipe(*sections)
    assert asked.stages == tuple(stages.split())
    assert policies(asked) == tuple(compared.split())


def test_a_stage_has_its_section_where_the_recipe_asks_for_it_and_none_elsewhere():
    """Filtering and alignment are never null: nothing reads a filtered corpus without pretraining, and `none` is no alignment."""
    asked, less = recipe(PRETRAIN, SFT, DPO), recipe(SFT)
    assert [asked.section(stage) for stage in ("validate", "filter", "align")] == [asked.data, asked.filtering, asked.alignment]
    assert [less.section(stage) for stage in ("filter", "align", "register")] == [None, None, None]
    assert less.section("sft") == less.sft


def test_ppo_trains_on_the_prompts_of_the_instructions_where_there_are_no_preferences():
    source = {"source": "function", "name": "posttrain.data.samples:sentiment"}
    ppo = {"alignment": {"algorithm": "ppo", "reward": [source]}}
    assert [recipe(SFT, ppo).dataset(stage) for stage in ("sft", "align", "evaluate")] == ["instructions", "preferences", None]
    assert recipe(SFT, ppo, {"data": {"instructions": "i.jsonl"}}).dataset("align") == "instructions"


def test_defaults():
    """The numbers that a recipe may leave out."""
    asked = recipe(PRETRAIN, SFT, DPO, source="scratch")
    assert asked.seed == 0
    assert asked.data.holdout == 0.1
    assert asked.data.checks.waive == {}
    assert asked.filtering.preset == "gopher"
    assert asked.sft.peft.method == "full"
    assert (asked.alignment.loss, asked.alignment.beta, asked.alignment.epochs) == ("sigmoid", 0.1, 1)
    assert (asked.alignment.peft.method, asked.alignment.peft.r, asked.alignment.peft.alpha) == ("lora", 16, 32)
    assert asked.evaluation.judge is None
    assert asked.evaluation.gates.given() == {}
    assert (asked.registry, asked.tracking.uri, asked.placement) == (None, None, "inline")
    assert recipe(SFT).alignment.algorithm == "none"


@pytest.mark.parametrize(
    "section", ["", "data", "data.checks", "model", "sft", "sft.peft", "alignment", "evaluation.gates", "compute"]
)
def test_a_recipe_is_frozen_at_every_depth(section):
    part: BaseModel = recipe(SFT, DPO)
    for name in filter(None, section.split(".")):
        part = getattr(part, name)
    field = next(iter(type(part).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, field, None)


def test_a_recipe_comes_back_from_json_equal():
    asked = recipe(PRETRAIN, SFT, DPO, REGISTRY, {"evaluation": {"gates": {"kl_per_token": {"max": 0}}}})
    assert Recipe.model_validate_json(asked.model_dump_json()) == asked


def test_a_preset_keeps_what_is_not_overridden():
    """One side replaced, one rule switched off by null, the rest as in Gopher, tables A1 and A2 (arXiv 2112.11446)."""
    filtering = Filtering.model_validate({"preset": "gopher", "rules": {"words": {"min": 0}, "stop_words": None}})
    rules = filtering.resolved()
    assert rules.words == Bounds(min=0, max=100_000)
    assert rules.stop_words is None
    assert rules.mean_word_length == Bounds(min=3, max=10)
    assert rules.alphabetic_word_share == Bounds(min=0.8)
    assert PRESETS["gopher"].words == Bounds(min=50, max=100_000), "the shared preset was changed"


def test_preset_none_has_no_rule_but_the_given():
    assert Filtering(preset="none").resolved() == FilterRules()
    only = Filtering.model_validate({"preset": "none", "rules": {"words": {"max": 9}}}).resolved()
    assert only == FilterRules(words=Bounds(max=9))


@pytest.mark.parametrize(("low", "high", "good"), [(1, 2, True), (2, 2, True), (3, 2, False), (0, None, True), (None, 0, True)])
def test_bounds_are_ordered_and_zero_is_a_bound(low, high, good):
    if good:
        assert (Bounds(min=low, max=high).min, Bounds(min=low, max=high).max) == (low, high)
    else:
        with pytest.raises(ValidationError, match=r"min 3\.0 is above max 2\.0"):
            Bounds(min=low, max=high)


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads", "good"),
    [(128, 4, 2, True), (96, 3, 3, True), (128, 4, 1, True), (128, 3, 1, False), (128, 4, 3, False), (128, 4, 8, False)],
)
def test_heads_divide_the_width_and_kv_heads_divide_the_heads(size, heads, kv_heads, good):
    fields = {"source": "scratch", "hidden_size": size, "heads": heads, "kv_heads": kv_heads}
    if good:
        assert ScratchModel.model_validate(fields).heads == heads
    else:
        with pytest.raises(ValidationError):
            ScratchModel.model_validate(fields)


JUDGE: dict[str, Any] = {"evaluation": {"judge": {"name": "m:f"}}}
DECIDES = [
    ("win_rate_vs_base", (SFT,), None), ("win_rate_vs_base", (SFT, JUDGE), "ok"), ("win_rate_vs_sft", (SFT, JUDGE), None),
    ("preference_accuracy", (SFT,), None), ("preference_accuracy", (DPO,), "ok"), ("validation_loss", (SFT,), "ok"),
    ("validation_loss", (DPO,), "ok"), ("validation_loss", (PRETRAIN,), None),
    ("validation_loss", ({"alignment": {"algorithm": "ppo", "reward": {"source": "function", "name": "m:f"}}},), None),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "sections", "good"), DECIDES)
def test_what_may_decide_a_promotion_is_what_the_recipe_measures(metric, sections, good):
    """A win rate needs a judge; the held-out loss a stage that has one, and two policies to compare."""
    registry = {"registry": {"model": "m", "promote_on": metric}}
    if good:
        assert recipe(*sections, registry).registry.promote_on == metric
    else:
        with pytest.raises(ValidationError, match=rf"registry\.promote_on: found {metric}"):
            recipe(*sections, registry)


def test_gates_given_are_those_set_and_zero_is_a_limit():
    gates = Gates.model_validate({"kl_per_token": {"max": 0}, "win_rate_vs_base": {"min": 0.5}})
    assert list(gates.given()) == ["win_rate_vs_base", "kl_per_token"]
    assert gates.given()["kl_per_token"].max == 0


@pytest.mark.parametrize("data", [{"corpus": "c"}, {}])
def test_a_recipe_without_prompts_for_evaluation_is_refused(data):
    with pytest.raises(ValidationError, match=r"data\.(prompts|corpus): found null"):
        recipe(PRETRAIN, {"data": data})


def test_a_recipe_that_trains_nothing_is_refused():
    with pytest.raises(ValidationError, match="trains nothing"):
        recipe()


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_an_odd_width_per_head_is_refused_only_where_positions_turn_pairs(architecture):
    """45 / 3 = 15 numbers per head: rotary positions need an even number, learned and relative ones do not."""
    fields = {"source": "scratch", "hidden_size": 45, "heads": 3}
    assert ScratchModel.model_validate({**fields, "architecture": architecture}).heads == 3
    with pytest.raises(ValidationError, match=r"model\.heads"):
        ScratchModel.model_validate({**fields, "architecture": "llama", "kv_heads": 1})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_a_written_out_model_section_is_read_again(architecture):
    """Prefect hands a recipe on with every field written out: one that does not apply must then be null."""
    model = ScratchModel.model_validate({"source": "scratch", "architecture": architecture})
    assert ScratchModel.model_validate(model.model_dump(mode="json")) == model


def test_a_recipe_is_read_again_from_its_document_as_the_same():
    """`rules` that name one limit leave the others to the preset; written out in full, their nulls would take these away."""
    written = recipe(PRETRAIN, SFT, DPO, {"filtering": {"rules": {"words": {"min": 10}}}})
    again = Recipe.model_validate(written.document)
    assert again == written
    assert again.filtering.resolved() == written.filtering.resolved()
    in_full = Recipe.model_validate(written.model_dump(mode="json"))
    assert in_full.filtering.resolved() != written.filtering.resolved()  # which is why there is a document
