"""The table of stages: it has a row for each, whose names exist, and the keys that a store written before it is reused by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.stages import WORK
from posttrain.runtime.store import Built, StageKey
from schemas.load import validate_recipe
from schemas.recipe import STAGES

OUTPUTS = {
    "validate": ("instructions", "preferences"),
    "filter": ("kept",),
    "pretrain": ("model",),
    "sft": ("model",),
    "reward": ("reward",),
    "align": ("adapter",),
    "evaluate": ("evaluation",),
    "register": (),
}
POLICY = ["pretrain", "sft", "align"]
INPUTS = {
    "validate": ["data.instructions", "data.preferences"],
    "filter": ["data.corpus"],
    "pretrain": ["filter.kept"],
    "sft": ["pretrain", "validate.instructions"],
    "reward": ["pretrain", "sft", "validate.preferences"],
    "align": ["pretrain", "sft", "validate.preferences"],
    "evaluate": [*POLICY, "filter.kept", "validate.instructions", "validate.preferences"],
    "register": POLICY,
}
# Computed at commit 053d191, before there was this table, with version 0 in place of the stage's; `validate` has checks by now
# that it had not then, and `filter` was computed again when `dedup.url` and `dedup.against` came.
BEFORE = {
    "filter": "45f580dd1e1717e5bfe9e1f1b3ff19c3",
    "register": "87a7c9cd52a3245545eff286da9215c7",
}


@pytest.fixture
def identities(document, store) -> dict[str, StageKey]:
    """Of every stage, on results whose bytes are the names of their outputs."""
    chain, found = Chain(validate_recipe(document | {"compute": {"dtype": "float32"}}, "tiny.yaml"), store), {}
    for stage in chain.recipe.stages:

        def make(folder: Path, stage: str = stage) -> Built:
            for name in OUTPUTS[stage]:
                (folder / name).write_text(f"{stage} {name}")
            return Built({}, {name: name for name in OUTPUTS[stage]})

        found[stage] = chain.identity(stage)
        store.build(found[stage], make)
    return found


def test_every_stage_has_a_row_in_the_order_of_the_recipe():
    assert list(WORK) == list(STAGES)


@pytest.mark.parametrize("stage", WORK)
def test_what_a_row_names_exists(stage):
    assert resolve_name(WORK[stage].task).name == stage
    assert WORK[stage].tokens is None or callable(resolve_name(WORK[stage].tokens))


@pytest.mark.parametrize(
    ("stage", "algorithm"),
    [("pretrain", "dpo"), ("sft", "dpo"), ("reward", "dpo"), ("align", "dpo"), ("align", "kto"), ("align", "ppo")],
)
def test_the_function_that_trains_a_stage_exists(document, stage, algorithm):
    told = {"ppo": {"reward": [{"source": "model"}]}, "kto": {"algorithm": "dpo", "loss": "kto"}}
    alignment = {"algorithm": algorithm} | told.get(algorithm, {})
    recipe = validate_recipe(document | {"alignment": alignment, "evaluation": {}}, "tiny.yaml")
    assert WORK[stage].train is not None
    assert callable(resolve_name(WORK[stage].train(recipe)))


def test_a_key_is_the_digest_of_the_settings_and_inputs_of_the_stage(identities, document):
    """Written out again here, from the recipe as a document."""
    recipe = validate_recipe(document, "tiny.yaml")
    told = recipe.model_dump(mode="json")
    arithmetic, holdout = {"seed": 0, "dtype": "float32"}, {"holdout": 0.1}
    rules = recipe.filtering.resolved().model_dump(mode="json")
    evaluation = {name: value for name, value in told["evaluation"].items() if name not in ("gates", "benchmarks")}
    fields = {
        "validate": {
            "checks": {
                name: value for name, value in told["data"]["checks"].items() if name not in ("incomplete", "decontaminate")
            },
            **holdout,
        },
        "filter": {"rules": rules, "lines": told["filtering"]["lines"], "dedup": told["filtering"]["dedup"], **holdout},
        "pretrain": {**arithmetic, "pretrain": told["pretrain"], "model": told["model"]},
        "sft": {**arithmetic, "sft": told["sft"]},
        "reward": {**arithmetic, "reward": told["reward"]},
        "align": {**arithmetic, "alignment": told["alignment"]},
        "evaluate": {**arithmetic, "evaluation": evaluation, "beta": 0.1, "loss": "sigmoid"},
        "register": {"model": "tiny"},
    }
    assert {stage: [origin.name for origin in each.inputs] for stage, each in identities.items()} == INPUTS
    for stage, each in identities.items():
        inputs = [(origin.name, origin.digest) for origin in each.inputs]
        text = json.dumps([stage, WORK[stage].version, fields[stage], inputs], sort_keys=True)
        assert each.key == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_a_store_written_before_the_table_is_reused(identities):
    assert {stage: replace(identities[stage], version=0).key for stage in BEFORE} == BEFORE


def test_what_the_filter_is_given_counts_by_content(document, store, tmp_path):
    words = tmp_path / "words.txt"
    keys = []
    for content in ("one", "one", "two"):
        words.write_text(content)
        asked = document | {"filtering": {"dirty_words": {"words": str(words)}, "language": {"keep": ["en"]}}}
        identity = Chain(validate_recipe(asked, "tiny.yaml"), store).identity("filter")
        assert [origin.name for origin in identity.inputs] == ["data.corpus", "filtering.dirty_words.words"]
        assert identity.fields["language"]["keep"] == ["en"]
        keys.append(identity.key)
    assert keys[0] == keys[1] != keys[2]
