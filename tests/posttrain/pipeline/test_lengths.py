"""Lengths that `posttrain check` forecasts from."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from transformers import LlamaConfig, T5Config

from posttrain.forecast.sizing import held_out_limit, memory_of
from posttrain.models.policy import Policy
from posttrain.models.positions import UNLIMITED
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.lengths import FirstRows, first_rows
from schemas.load import validate_recipe
from schemas.training import DPO


def says(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture
def rows(checkpoint):
    """Five pairs, one of which has a prompt of hundreds of tokens."""
    prompts = [says("user", "Rate it. " * (200 if i == 3 else 1)) for i in range(5)]
    table = pl.DataFrame(
        {"prompt": prompts, "chosen": [says("assistant", "Clean.")] * 5, "rejected": [says("assistant", "Bad")] * 5}
    )
    chain = SimpleNamespace(model=None, source=Policy(str(checkpoint)))
    return FirstRows([], {"preferences": table}, {"preferences": 1000}, {"preferences": 5}, chain)


def test_evaluation_is_forecast_with_its_own_bound_not_that_of_training(rows):
    spec = DPO(algorithm="dpo", max_length=48)
    trained, _ = rows.examples(spec, False)
    assert max(example.length for example in trained) == 48 + len(trained[3].branches[1])
    held_out, said = rows.held_out(spec, 128, False)
    assert max(len(e.prompt) + max(map(len, e.branches)) for e in held_out) == 128
    assert said.endswith("of 128 that are read")
    whole, said = rows.held_out(spec, UNLIMITED, False)
    assert len(whole[3].prompt) > 400
    assert said.endswith(f"at most {max(example.length for example in whole)}")


def recipe(path: str, **evaluation):
    document = {
        "name": "tiny", "model": {"source": "local", "path": path}, "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo", "max_length": 48}, "evaluation": {"prompts": 8, "max_new_tokens": 4, **evaluation},
    }  # fmt: skip
    return validate_recipe(document, "test")


def test_the_bound_is_that_of_evaluation(checkpoint):
    told = recipe(str(checkpoint))
    assert held_out_limit(told, LlamaConfig(max_position_embeddings=2048)) == 2048
    assert held_out_limit(told, T5Config()) == UNLIMITED
    assert held_out_limit(recipe(str(checkpoint), max_length=100), LlamaConfig(max_position_embeddings=2048)) == 100


def test_check_says_how_long_the_rows_of_evaluation_are(rows, checkpoint, store):
    """With 400 tokens allowed the long row counts in full but for what is cut."""
    chain = Chain(recipe(str(checkpoint), max_length=400), store)
    memory = memory_of(chain, replace(rows, chain=chain), {})
    assert "of 400 that are read" in memory["evaluate"]["rows"]
    assert "that are read" not in memory["align"]["rows"]


def test_evaluation_holds_no_more_prompts_than_are_held_out(rows, checkpoint, store):
    """Eight are asked for: the cache of eight answers takes more than that of the two rows that the contract counted."""
    chain = Chain(recipe(str(checkpoint), max_length=2000, max_new_tokens=1500, samples=16), store)

    def activations(**counts) -> float:
        return memory_of(chain, replace(rows, chain=chain), counts)["evaluate"]["parts_gb"]["activations"]

    assert activations(preferences_holdout=2.0) < 0.6 * activations(preferences_holdout=8.0)
    assert activations(preferences_holdout=20.0) == activations(preferences_holdout=8.0)


def test_every_file_is_among_the_first_rows(checkpoint, store, tmp_path):
    """600 rows of one file would fill the 512 that are read."""
    for name, count in (("a", 600), ("b", 600)):
        lines = [{"prompt": f"{name} {i}", "chosen": "good", "rejected": "bad"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    told = recipe(str(checkpoint))
    told = told.model_copy(update={"data": told.data.model_copy(update={"preferences": str(tmp_path / "*.jsonl")})})
    first = first_rows(Chain(told, store)).tables["preferences"]["prompt"].to_list()
    assert len(first) == 512
    assert sum(prompt[0]["content"].startswith("b") for prompt in first) == 256


def test_rows_that_no_limit_would_cut_are_encoded_once(checkpoint, store):
    """The training limit of 400 cuts nothing; one of 48 leaves rows out, which evaluation then reads anew."""
    chain = Chain(recipe(str(checkpoint)), store)
    prompts = pl.DataFrame({"prompt": [[{"role": "user", "content": "why? " * n}] for n in (1, 2, 30)]})
    answers = {side: [[{"role": "assistant", "content": side}]] * 3 for side in ("chosen", "rejected")}
    rows = FirstRows([], {"preferences": prompts.with_columns(**{k: pl.Series(v) for k, v in answers.items()})}, {}, {}, chain)
    for limit, same in ((400, True), (48, False)):
        spec = DPO(algorithm="dpo", max_length=limit)
        trained, _ = rows.examples(spec, False)
        assert (rows.held_out(spec, 2048, False)[0] is trained) is same


def test_a_generated_sample_is_kept(checkpoint, store):
    told = recipe(str(checkpoint))
    told = told.model_copy(update={"data": told.data.model_copy(update={"preferences": "sample://preferences"})})
    first_rows(Chain(told, store))
    assert list((store.root / "cache" / "samples").glob("preferences-*.jsonl"))
