"""A small task of the user's own, and policies of which one has been taught to fail it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from posttrain.checkpoints.load import scratch_model
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.models.policy import Policy
from schemas.model import ScratchModel

TASK = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": ["red", "green", "blue"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one task of twelve documents."""
    place = tmp_path / "tasks"
    place.mkdir()
    rows = [{"question": f"which colour has number {n}?", "answer": n % 3} for n in range(12)]
    (place / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "colours.yaml").write_text(yaml.safe_dump(TASK, sort_keys=False))
    return place


@pytest.fixture
def changed(folder):
    """Writes the task anew with other keys; None takes one away."""

    def write(**keys) -> Path:
        task = {name: value for name, value in (TASK | keys).items() if value is not None}
        (folder / "colours.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_policies(tmp_path_factory) -> dict[str, Policy]:
    """Two tiny policies that differ in their weights."""
    texts = [f"Question: which colour has number {i}?\nAnswer: red green blue" for i in range(40)]
    tokenizer, policies = prepare_tokenizer(train_tokenizer(texts, 300)), {}
    for seed, name in enumerate(("base", "aligned")):
        place = tmp_path_factory.mktemp(name)
        spec = ScratchModel(source="scratch", hidden_size=16, layers=1, heads=2, kv_heads=1)
        scratch_model(spec, tokenizer, seed).save_pretrained(place)
        tokenizer.save_pretrained(place)
        policies[name] = Policy(str(place))
    return policies
