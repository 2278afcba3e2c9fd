"""A recipe with every stage, and a store for it."""

from __future__ import annotations

import json

import pytest

from posttrain.runtime.store import Store


@pytest.fixture
def document(tmp_path) -> dict:
    """A recipe with every stage, on files of its own."""
    sources = {}
    for name in ("corpus", "instructions", "preferences"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"text": name}) + "\n")
        sources[name] = str(path)
    return {
        "name": "tiny",
        "model": {"source": "scratch", "hidden_size": 32, "layers": 1, "vocab_size": 300},
        "data": sources,
        "pretrain": {"tokens": 1000},
        "sft": {"epochs": 1},
        "reward": {"epochs": 1},
        "alignment": {"algorithm": "dpo", "beta": 0.1},
        "evaluation": {"gates": {"kl_per_token": {"max": 0.5}}},
        "registry": {"model": "tiny"},
    }


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")
