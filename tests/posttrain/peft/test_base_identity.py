"""An adapter is loaded on what it was trained on, and on nothing else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.checkpoints.load import merge_adapter
from posttrain.models.policy import Policy
from posttrain.peft.base_identity import BaseIdentity, identity_of
from posttrain.peft.wrap import save_trained, wrap
from schemas.errors import Refusal

# Adapters of peft, deltas, soft prompts, and the base's own weights.
NAMES = [
    "lora",
    "adalora",
    "vera",
    "ia3",
    "ln_tuning",
    "bottleneck pfeiffer",
    "prompt_tuning",
    "prefix_tuning",
    "bitfit",
    "last_layers",
]


@pytest.fixture(scope="module", params=NAMES)
def trained_once(request, spec, tiny, train, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("run"), wrap(tiny("llama"), spec(request.param), 0, "sft.peft")
    train(model, steps=2)
    save_trained(model, None, spec(request.param), Policy(""), folder)
    return folder / "adapter"


@pytest.fixture
def adapter(trained_once, tmp_path):
    """A copy of an adapter that may be spoilt."""
    return shutil.copytree(trained_once, tmp_path / "adapter")


def refused(model, adapter) -> Refusal:
    with pytest.raises(Refusal) as raised:
        merge_adapter(model, adapter)
    assert str(adapter) in raised.value.where
    return raised.value


def nudge(model, name: str):
    """The model with one number of one weight changed in its last bits."""
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] += 1e-6
    return model


def test_it_says_what_was_trained_and_on_what(adapter, tiny):
    record = json.loads((adapter / "lineage.json").read_text())
    assert record["base"] == {"weights": identity_of(tiny("llama")).weights, "vocabulary": 97, "adapters": []}
    assert record["peft"]["method"] in {name.split()[0] for name in NAMES}


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_another_base_of_the_same_shape_is_refused(adapter, tiny, name):
    assert "on which it was trained" in refused(nudge(tiny("llama"), name), adapter).allowed


def test_a_resized_vocabulary_is_refused(adapter, tiny):
    model = tiny("llama")
    model.resize_token_embeddings(101, mean_resizing=False)
    refusal = refused(model, adapter)
    assert "101 token embeddings" in refusal.found
    assert "97" in refusal.allowed


def test_an_adapter_that_does_not_say_on_what_it_was_trained_is_refused(adapter, tiny):
    (adapter / "lineage.json").unlink()
    assert "no lineage.json" in refused(tiny("llama"), adapter).found


@pytest.mark.parametrize("content", ["{", "{}", '{"base": {"weights": "x"}}', '{"base": []}'])
def test_a_damaged_record_of_it_is_refused(adapter, tiny, content):
    (adapter / "lineage.json").write_text(content)
    assert "no lineage" in refused(tiny("llama"), adapter).found


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_tensor_too_few_too_many_or_of_another_shape_is_refused(adapter, tiny, change):
    (path,) = adapter.glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if change == "missing":
        tensors.pop(name)
    elif change == "unexpected":
        tensors[name.replace("layers.0", "layers.7") + "x"] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(*tensors[name].shape[:-1], tensors[name].shape[-1] + 1)
    save_file(tensors, path, {"format": "pt"})
    refusal = refused(tiny("llama"), adapter)
    assert change == "shape" or change in refusal.found or "prompt_embeddings" in refusal.found


def test_a_file_that_is_cut_short_is_refused(adapter, tiny):
    (path,) = adapter.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    refused(tiny("llama"), adapter)


def test_the_arithmetic_in_which_the_base_is_held_does_not_matter(tiny):
    """A checkpoint in bf16 has the same lineage when it is loaded in fp32, where the values are the same."""
    half = tiny("llama").bfloat16()
    assert identity_of(half) == identity_of(tiny("llama").bfloat16().float())
    assert identity_of(half) != identity_of(tiny("llama"))


def test_a_shape_or_a_name_is_part_of_it(tiny):
    one = identity_of(tiny("llama"))
    other = tiny("llama")
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.detach().clone())  # untied
    assert identity_of(other).weights != one.weights


def test_a_model_without_numbers_has_none(tiny):
    with torch.device("meta"):
        assert identity_of(tiny("llama")) == BaseIdentity("", 0)


def test_adapters_stack_in_the_order_of_training_alone(tiny, spec, train, tmp_path):
    folders = []
    for index, name in enumerate(("lora", "ia3")):
        model = tiny("llama")
        for below in folders:
            model = merge_adapter(model, below)
        model = wrap(model, spec(name), index, "sft.peft")
        train(model, steps=2)
        save_trained(model, None, spec(name), Policy("", adapters=tuple(folders)), tmp_path / name)
        folders.append(tmp_path / name / "adapter")
    model = merge_adapter(merge_adapter(tiny("llama"), folders[0]), folders[1])
    assert len(identity_of(model).adapters) == 2
    refused(tiny("llama"), folders[1])
    refused(merge_adapter(tiny("llama"), folders[0]), folders[0])
