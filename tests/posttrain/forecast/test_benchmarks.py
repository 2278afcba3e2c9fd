"""The forecast of benchmarks: documents, choices, shots and policies, counted by hand."""

from __future__ import annotations

import json

import pytest
import yaml

from posttrain.data.tokenizer import train_tokenizer
from posttrain.forecast.benchmarks import benchmark_tokens
from schemas.recipe import Recipe

TASK = {
    "task": "colours", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "which?", "doc_to_choice": ["a", "a"],
    "doc_to_target": "answer", "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    """A recipe with one benchmark of twelve documents in a folder, and two policies."""
    pytest.importorskip("lm_eval")
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps({"answer": 0}) + "\n" for _ in range(12)))

    def made(task: dict, **asked) -> Recipe:
        (tmp_path / "colours.yaml").write_text(yaml.safe_dump(TASK | task))
        document = {
            "name": "house", "model": {"source": "local", "path": "m"}, "data": {"preferences": "p"},
            "alignment": {"algorithm": "dpo"},
            "evaluation": {"benchmarks": [{"task": "colours", "folder": str(tmp_path), **asked}]},
        }  # fmt: skip
        return Recipe.model_validate(document)

    return made


def test_choices_documents_shots_and_policies_multiply(recipe):
    """Both requests of a document are `which? a`. Two policies, five of twelve documents, two choices, and one shot."""
    tokenizer = train_tokenizer(["which? a"] * 3, 280)
    length = len(tokenizer("which? a")["input_ids"])
    assert benchmark_tokens(recipe({}), tokenizer) == (2 * 12 * 2 * length, 0)
    assert benchmark_tokens(recipe({}, limit=5), tokenizer) == (2 * 5 * 2 * length, 0)
    assert benchmark_tokens(recipe({}, limit=5, shots=1), tokenizer) == (2 * 2 * 5 * 2 * length, 0)


def test_answers_that_are_drawn_count_with_their_longest_length(recipe):
    tokenizer = train_tokenizer(["which? a"] * 3, 280)
    task = {
        "output_type": "generate_until", "doc_to_target": "a", "generation_kwargs": {"max_gen_toks": 7, "until": ["."]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    assert benchmark_tokens(recipe(task), tokenizer) == (2 * 12 * len(tokenizer("which?")["input_ids"]), 2 * 12 * 7)


def test_data_that_are_not_here_count_nothing(recipe):
    task = {"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}
    assert benchmark_tokens(recipe(task), train_tokenizer(["which? a"] * 3, 280)) == (0, 0)
