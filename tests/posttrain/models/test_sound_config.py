"""Configs that no model can be made from are refused by the name of the field, in little time and memory."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from posttrain.checkpoints.load import check_size, load_base, load_config
from posttrain.models.policy import Policy
from posttrain.runtime.peak_memory import peak_memory_gb, reset_peak
from schemas.errors import Refusal

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


def test_an_activation_that_is_unknown_is_refused(changed):
    policy = changed({"hidden_act": "evil"})
    with pytest.raises(Refusal, match="a checkpoint that cannot be loaded: 'evil'"):
        check_size(policy, load_config(policy))
    with pytest.raises(Refusal):
        load_base(policy)


def test_a_sound_config_is_taken(checkpoint):
    policy = Policy(str(checkpoint))
    check_size(policy, load_config(policy))
