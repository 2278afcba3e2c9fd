"""Merging is verified: what would change the model is refused."""

from __future__ import annotations

import pytest
import torch

from posttrain.peft.applied import adapted
from posttrain.peft.merge import is_plain, merge, not_mergeable, probe
from posttrain.peft.wrap import wrap
from schemas.errors import Refusal


def test_a_merge_that_changes_the_logits_is_refused(spec, tiny, train):
    """An adapter whose scale is changed behind the merge's back."""
    model = wrap(tiny("llama"), spec("lora"), 0, "sft.peft")
    train(model)
    tuner = adapted(model).tuner
    honest = tuner.merge_and_unload

    def careless(**options):
        plain = honest(**options)
        with torch.no_grad():
            plain.model.layers[1].mlp.down_proj.weight[0] += 0.1
        return plain

    tuner.merge_and_unload = careless
    with pytest.raises(Refusal, match="merging it changes logits"):
        merge(model)


def test_an_update_that_is_no_number_is_refused(spec, tiny):
    model = wrap(tiny("llama"), spec("lora"), 0, "sft.peft")
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(torch.nan)
    with pytest.raises((Refusal, ValueError)):
        merge(model)


def test_a_quantised_base_keeps_the_adapter_beside_it(spec, tiny):
    model = wrap(tiny("llama"), spec("lora"), 0, "sft.peft")
    assert not_mergeable(model, adapted(model).tuner) is None
    model.get_base_model().quantization_method = "bitsandbytes"
    with pytest.raises(Refusal, match="quantised"):
        merge(model)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.layers.0.mlp.up_proj.weight"),
        ("llama", "model.layers.1.self_attn.q_proj.weight"),
        ("t5", "encoder.block.0.layer.0.SelfAttention.k.weight"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.v.weight"),
    ],
)
def test_the_probe_sees_every_layer_and_both_halves_of_an_encoder_decoder(tiny, kind, name):
    model = tiny(kind)
    before = probe(model)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.5)
    assert (probe(model) - before).abs().max() > 1e-4


def test_a_model_that_was_not_wrapped_is_plain_and_merged(tiny, spec):
    model = tiny("llama")
    assert merge(model) is model
    assert is_plain(model)
    assert not is_plain(wrap(model, spec("lora"), 0, "sft.peft"))


def test_merging_leaves_the_mode_as_it_was(spec, tiny):
    for training in (True, False):
        assert merge(wrap(tiny("llama"), spec("lora"), 0, "sft.peft").train(training)).training is training
