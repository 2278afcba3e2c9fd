"""Configs that no model can be made from are refused by the name of the field, in little time and memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from posttrain.checkpoints.load import check_size, load_base, load_config, tokenizer_as_found
from posttrain.models.policy import Policy
from posttrain.runtime.peak_memory import peak_memory_gb, reset_peak
from schemas.errors import Refusal

ROOT = Path(__file__).resolve().parents[3]
WRONG = {
    "a text": ({"hidden_size": "64"}, "hidden_size in config.json: found '64'"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads in config.json: found 0"),
    "fewer than no heads": ({"num_key_value_heads": -1}, "num_key_value_heads in config.json: found -1"),
    "a fraction": ({"num_hidden_layers": 1e300}, "num_hidden_layers in config.json: found 1e+300"),
    "endless layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers in config.json: found 1000000000"),
    "a vocabulary of 500 million": ({"vocab_size": 500_000_000}, "vocab_size in config.json: found 500000000"),
    "an unknown dtype": ({"dtype": "float7"}, "dtype in config.json: found 'float7'"),
    "an older name of it": ({"dtype": None, "torch_dtype": "save"}, "found 'save'"),
    "in a part": ({"text_config": {"hidden_size": True}}, "hidden_size in config.json: found True"),
    "in a part of a part": ({"a": [{"text_config": {"num_layers": -1}}]}, "num_layers in config.json: found -1"),
    "endless names": ({"num_labels": 30_000_000}, "num_labels in config.json: found 30000000"),
    "endless layers of a decoder": ({"num_decoder_layers": 10**9}, "num_decoder_layers in config.json: found 1000000000"),
    "endless kinds of attention": ({"attention_types": [[["global"], 10**9]]}, "attention_types in config.json: found"),
    "nesting": ({"a": json.loads("[" * 900 + "]" * 900)}, "values nested over 20 deep"),
    "code of the hub": (
        {"_attn_implementation": "someone/kernel"},
        "_attn_implementation in config.json: found 'someone/kernel'",
    ),
    "code of the hub for a part": (
        {"text_config": {"attn_implementation": {"": "someone/kernel@v1:attention"}}},
        "attn_implementation in config.json",
    ),
    "code of the hub for experts": ({"experts_implementation": "a/b"}, "experts_implementation in config.json: found 'a/b'"),
    "no object": ([], "a config.json that is no JSON object"),
    "a list of types": ({"model_type": ["llama"]}, "a checkpoint that cannot be loaded"),
    "a text for a table": ({"rope_parameters": "x"}, "a checkpoint that cannot be loaded"),
    "heads that do not divide": ({"hidden_size": 33, "head_dim": None}, "a checkpoint that cannot be loaded"),
}


@pytest.fixture
def changed(checkpoint, tmp_path):
    """The policy of a checkpoint whose config has these values."""

    def write(changes) -> Policy:
        folder = shutil.copytree(checkpoint, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes if isinstance(changes, dict) else changes))
        return Policy(str(folder))

    return write


@pytest.mark.parametrize("name", WRONG)
def test_a_config_that_makes_no_sense_is_refused_by_the_name_of_the_field(changed, name):
    changes, said = WRONG[name]
    with pytest.raises(Refusal) as refusal:
        load_config(changed(changes))
    assert said in str(refusal.value)


@pytest.mark.parametrize("changes", [{"vocab_size": 9_000_000}, {"num_hidden_layers": 300}, {"intermediate_size": 5_000_000}])
def test_a_config_far_larger_than_the_files_is_refused_before_memory_is_taken(changed, changes):
    policy = changed(changes)
    reset_peak()
    before, started = peak_memory_gb(), time.monotonic()
    with pytest.raises(Refusal, match=r"sizes of a model of .* weights, with files of"):
        load_base(policy)
    assert peak_memory_gb() - before < 0.3  # one of 9 million tokens takes 1.15 GB
    assert time.monotonic() - started < 30


def test_a_mask_of_gigabytes_behind_a_small_table_of_positions_is_refused(tmp_path):
    """GPT-Neo keeps a mask of all positions for all: 200,000 numbers in the file, 10 GB in memory."""
    config = GPTNeoConfig(
        vocab_size=97, hidden_size=2, num_layers=1, num_heads=1, attention_types=[[["global"], 1]], max_position_embeddings=32
    )
    GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    load_base(Policy(str(tmp_path)))
    tensors = load_file(tmp_path / "model.safetensors") | {"transformer.wpe.weight": torch.zeros(100_000, 2)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | {"max_position_embeddings": 100_000}, default=str))
    with pytest.raises(Refusal, match="masks and tables of positions take 10,000,000,000 bytes"):
        load_base(Policy(str(tmp_path)))


@pytest.mark.parametrize("quantization", [{}, {"quant_method": "gptq", "bits": 4}])
def test_a_quantised_checkpoint_is_no_way_around_the_files(changed, quantization):
    policy = changed({"quantization_config": quantization, "vocab_size": 9_000_000})
    with pytest.raises(Refusal, match=r"sizes of a model of .* weights, with files of"):
        load_base(policy)


CHILD = """
import sys
from posttrain.checkpoints.load import load_base
from posttrain.models.policy import Policy
from schemas.errors import Refusal
try:
    load_base(Policy("someone/model"))
    print("loaded")
except Refusal as refusal:
    print(refusal.found)
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [({}, "loaded"), ({"num_labels": 30_000_000}, "30000000"), ({"vocab_size": 9_000_000}, "sizes of a model of")],
)
def test_a_checkpoint_of_the_hub_is_judged_as_a_folder_is(changed, tmp_path, changes, said):
    """As it lies in the cache; in a process of its own, since the client reads where that is when it is imported."""
    commit, repository = "b" * 40, tmp_path / "cache" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    Path(changed(changes).base).rename(repository / "snapshots" / commit)
    settings = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CHILD], env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


NESTED = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_file_of_a_tokenizer_that_is_nested_without_end_is_refused(changed, name):
    policy = changed({})
    (Path(policy.base) / name).write_text(NESTED)
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded"):
        tokenizer_as_found(policy)


def test_a_generation_config_that_is_nested_without_end_is_refused(changed):
    policy = changed({})
    (Path(policy.base) / "generation_config.json").write_text(NESTED)
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded"):
        load_base(policy)


def test_the_config_is_judged_before_the_tokenizer_is_read(changed):
    """transformers may read the config for it: one with 30 million labels took 7 GB."""
    with pytest.raises(Refusal, match="num_labels"):
        tokenizer_as_found(changed({"num_labels": 30_000_000}))


def test_an_activation_that_is_unknown_is_refused(changed):
    policy = changed({"hidden_act": "evil"})
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded: 'evil'"):
        check_size(policy, load_config(policy))
    with pytest.raises(Refusal):
        load_base(policy)


def test_a_sound_config_is_taken(checkpoint):
    policy = Policy(str(checkpoint))
    check_size(policy, load_config(policy))
