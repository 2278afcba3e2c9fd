"""Folders that cannot be a model are refused before anything runs."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from posttrain.pipeline.preflight import check_model
from schemas.errors import Refusal
from schemas.model import LocalModel


@pytest.fixture
def with_an_adapter(checkpoint, tiny_llama, tokenizer, tmp_path):
    """A checkpoint into whose folder a trainer wrote an adapter too, of another base."""
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    other = tiny_llama(len(tokenizer), seed=1, tie_word_embeddings=False)
    get_peft_model(other, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def test_an_adapter_in_a_models_folder_is_refused_before_anything_runs(with_an_adapter, checkpoint):
    check_model(LocalModel(source="local", path=str(checkpoint)))
    for field in ("model", "reward.model"):
        with pytest.raises(Refusal, match=rf"{field}\.path: found .*model, a checkpoint and an adapter \(adapter_config\.json\)"):
            check_model(LocalModel(source="local", path=str(with_an_adapter)), field)


def test_a_checkpoint_into_which_transformers_put_an_adapter_is_refused_at_load(with_an_adapter):
    """As of the hub, whose files the preflight does not see."""
    with pytest.raises(Refusal, match="a checkpoint and an adapter"):
        load_model(Policy(str(with_an_adapter)), torch.device("cpu"))
