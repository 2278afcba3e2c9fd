"""Indexes of checkpoints in several files stay inside their folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from posttrain.models.shards import refuse_outside_shards
from schemas.errors import Refusal

CPU = torch.device("cpu")


@pytest.fixture
def sharded(checkpoint, tmp_path) -> Path:
    """The tiny checkpoint in several files."""
    load_model(Policy(str(checkpoint)), CPU).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    return tmp_path / "model"


def test_a_checkpoint_in_several_files_loads(sharded, checkpoint):
    refuse_outside_shards(sharded, "model.path")
    whole, parts = (load_model(Policy(str(folder)), CPU).state_dict() for folder in (checkpoint, sharded))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_a_shard_outside_the_folder_is_refused_before_it_is_read(sharded):
    """It was loaded, and the digest of the folder did not cover it."""
    (index,) = sharded.glob("*.index.json")
    first = sorted(sharded.glob("*.safetensors"))[0]
    first.rename(sharded.parent / "outside.safetensors")
    index.write_text(index.read_text().replace(first.name, "../outside.safetensors"))
    with pytest.raises(Refusal, match=r"which names '\.\./outside\.safetensors'"):
        load_model(Policy(str(sharded)), CPU)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "[" * 100_000])
def test_what_is_no_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(Refusal, match="no index of safetensors"):
        refuse_outside_shards(tmp_path, "model.path")


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/b.safetensors", 1, None])
def test_names_that_are_paths_are_refused(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(Refusal, match="which names"):
        refuse_outside_shards(tmp_path, "model.path")
