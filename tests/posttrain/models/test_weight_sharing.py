"""A shared copy: the same storage, everything else of its own."""

from __future__ import annotations

import copy

import torch

from posttrain.models.weight_sharing import shared_copy
from posttrain.peft.wrap import wrap

IDS = torch.arange(10)[None]


def test_every_parameter_lies_in_the_storage_of_the_first(tiny_llama):
    model = tiny_llama()
    other = shared_copy(model)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(mine[name].data_ptr() == theirs[name].data_ptr() for name in mine)
    assert not any(mine[name] is theirs[name] for name in mine)
    assert not set(map(id, model.modules())) & set(map(id, other.modules()))
    with torch.no_grad():
        mine["model.layers.0.self_attn.q_proj.weight"].mul_(2)
    assert torch.equal(model(IDS).logits, other(IDS).logits)


def test_tied_parameters_stay_tied_and_a_deep_copy_shares_nothing(tiny_llama):
    model = tiny_llama()
    other = shared_copy(model)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert copy.deepcopy(model).lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


def test_an_adapter_and_what_is_trained_are_the_copys_own(tiny_llama, lora):
    model = tiny_llama().requires_grad_(True)
    before = model(IDS).logits
    other = wrap(shared_copy(model), lora(), 0, "value.peft")
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            assert "lora_" in name
            torch.nn.init.ones_(parameter)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(model(IDS).logits, before)
    assert not torch.allclose(other(input_ids=IDS).logits, before)


def test_gradients_are_not_shared(tiny_llama):
    model = tiny_llama().requires_grad_(True)
    other = shared_copy(model)
    other(IDS).logits.sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert other.lm_head.weight.grad is not None
