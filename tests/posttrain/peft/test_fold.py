"""A parallel bottleneck adapter becomes part of a wider feed-forward layer, where the architecture has a place for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from posttrain.checkpoints.export import export
from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy, folder_policy
from posttrain.peft.fold import fold, foldable
from posttrain.peft.merge import is_foldable, is_plain, merge
from posttrain.peft.wrap import save_trained, trainable_state, wrap
from schemas.errors import Refusal

CPU = torch.device("cpu")


@pytest.fixture
def adapted(spec, tiny):
    """A model with a random adapter in it."""

    def build(name: str = "bottleneck parallel", model=None, **changes):
        wrapped = wrap(model or tiny("llama"), spec(name, **changes), 0, "sft.peft").eval()
        for parameter in trainable_state(wrapped).values():
            nn.init.normal_(parameter, std=0.3)
        return wrapped

    return build


def test_the_layer_by_hand(adapted):
    """The first block's adapter is (D, d, U, u); scale 2. Rows and columns as the file's first lines say."""
    model = adapted()
    layer = model.model.layers[0].mlp
    adapter, size = layer.bottleneck, layer.bottleneck.down.out_features
    gate, down = layer.gate_proj.weight.clone(), layer.down_proj.weight.clone()
    fold(model)
    assert torch.equal(layer.gate_proj.weight, torch.cat([gate, adapter.down.weight]))
    assert torch.equal(layer.gate_proj.bias, torch.cat([torch.zeros(48), adapter.down.bias]))
    assert torch.equal(layer.up_proj.weight[-size:], torch.zeros(size, 32))
    assert torch.equal(layer.up_proj.bias, torch.cat([torch.zeros(48), torch.ones(size)]))
    assert torch.equal(layer.down_proj.weight, torch.cat([down, 2 * adapter.up.weight], 1))
    assert torch.equal(layer.down_proj.bias, 2 * adapter.up.bias)
    assert (model.config.mlp_bias, model.config.intermediate_size) == (True, 48 + size)


def test_it_computes_the_same_as_a_standard_checkpoint(adapted, logits, tmp_path):
    model = adapted()
    expected = logits(model)
    merged = merge(model)
    assert merged is model
    assert is_plain(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-5)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(again.eval()), logits(model))


def test_biases_that_are_there_stay(adapted, tiny, logits):
    base = tiny("llama", mlp_bias=True)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    model = adapted(model=base)
    expected = logits(model)
    torch.testing.assert_close(logits(merge(model)), expected, atol=1e-4, rtol=1e-5)


def test_two_of_them_fold_one_after_the_other(adapted, logits):
    model = adapted(model=adapted())
    expected = logits(model)
    torch.testing.assert_close(logits(merge(model)), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "changes"),
    [
        ("llama", "bottleneck parallel", {"activation": "relu"}),
        ("llama", "bottleneck houlsby", {"activation": "silu"}),
        ("llama", "bottleneck pfeiffer", {"activation": "silu"}),
        ("t5", "bottleneck parallel", {"activation": "gelu"}),
        ("gpt2", "bottleneck parallel", {"activation": "gelu"}),
    ],
)
def test_what_has_no_place_is_not_folded(adapted, tiny, kind, name, changes):
    """Another activation; an adapter in line; T5 has no biases, GPT-2 no gate."""
    model = adapted(name, tiny(kind), **changes)
    assert not foldable(model)
    with pytest.raises(Refusal, match="it adds computation"):
        merge(model)


def test_one_in_line_keeps_the_other_beside_it(adapted):
    assert not foldable(adapted("bottleneck houlsby", adapted(), activation="silu"))


def test_below_a_soft_prompt_it_is_not_all_that_stays(adapted, spec):
    assert not is_foldable(wrap(adapted(), spec("prompt_tuning"), 1, "alignment.peft"))


@pytest.mark.slow
def test_the_export_has_a_checkpoint_and_the_adapter_with_its_base(spec, checkpoint, adapted, logits, tmp_path):
    """LoRA above it is merged first. Each is loaded in a fresh process, and the checkpoint is what a later recipe starts from."""
    policy = Policy(str(checkpoint))
    for name in ("bottleneck parallel", "lora"):
        model = adapted(name, load_model(policy, CPU))
        save_trained(model, None, spec(name), policy, tmp_path / name)
        policy = Policy(policy.base, adapters=(*policy.adapters, tmp_path / name / "adapter"))
    assert export(policy, tmp_path / "out").keys() == {"base", "adapter", "checkpoint"}
    again = folder_policy(tmp_path / "out")
    assert again == Policy(str(tmp_path / "out" / "checkpoint"))
    ids = torch.tensor([[5, 6, 7]])
    found, expected = (load_model(each, CPU).eval()(input_ids=ids).logits for each in (again, policy))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
