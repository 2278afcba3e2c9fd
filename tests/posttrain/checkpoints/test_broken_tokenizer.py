"""Tokenizers and configs that make no sense are refused, whatever transformers or tokenizers raises on them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.models.policy import Policy
from schemas.errors import Refusal


@pytest.fixture
def spoilt(checkpoint, tmp_path):
    """Builds a copy of the tiny checkpoint in which one value of a JSON file is another."""

    def build(file: str, name: str, value) -> Policy:
        path = shutil.copytree(checkpoint, tmp_path / "model") / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        return Policy(str(path.parent))

    return build


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("tokenizer.json", "normalizer", {"type": "None of these"}),
        ("tokenizer.json", "model", {"type": "BPE", "vocab": {}, "merges": []}),
        ("tokenizer_config.json", "model_max_length", "long"),
    ],
)
def test_a_tokenizer_that_fails_is_refused(spoilt, file, name, value):
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded: "):
        load_tokenizer(spoilt(file, name, value))


def test_a_padding_token_without_an_embedding_is_refused(spoilt):
    with pytest.raises(Refusal, match="cannot be loaded: Padding_idx must be within num_embeddings"):
        load_model(spoilt("config.json", "pad_token_id", 10**9), torch.device("cpu"))
