"""LoRA's linear layer as one operation, against peft's own."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from posttrain.peft.lora_product import LoRALinear, add_in_place

NAMES = ["q_proj", "up_proj"]


def adapted(tiny_llama, **config):
    """A Llama with LoRA of random weights, and a copy that computes as one operation."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=8, target_modules=NAMES, **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    ours = copy.deepcopy(model)
    add_in_place(ours)
    return model, ours


def passes(model, ids, dtype=None):
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        logits = model(input_ids=ids).logits
    (logits.float() ** 2).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_outputs_and_gradients_are_those_of_peft(tiny_llama):
    model, ours = adapted(tiny_llama)
    assert sum(isinstance(layer, LoRALinear) for layer in ours.modules()) == 2 * model.config.num_hidden_layers
    ids = torch.arange(2, 26).view(2, 12)
    (expected, gradients), (found, own) = passes(model, ids), passes(ours, ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-6, rtol=1e-4)


def test_an_adapter_that_does_nothing_leaves_every_bit_of_the_base(tiny_llama):
    base = tiny_llama()
    ids = torch.arange(2, 14)[None]
    expected = base(input_ids=ids).logits
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules=NAMES))  # B is zero
    add_in_place(model)
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_half_precision_keeps_gradients_in_fp32(tiny_llama):
    model, ours = adapted(tiny_llama)
    ids = torch.arange(2, 26).view(2, 12)
    (_, gradients), (_, own) = passes(model, ids, torch.bfloat16), passes(ours, ids, torch.bfloat16)
    for name, gradient in gradients.items():
        assert own[name].dtype == torch.float32
        assert (own[name] - gradient).norm() < 0.05 * gradient.norm()


def test_a_small_update_is_not_rounded_away_in_half_precision(tiny_llama):
    """An update a ten-thousandth as large: what it changes in a layer's output is what it changes in fp32, to a tenth."""
    _, ours = adapted(tiny_llama)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.mul_(1e-4 if "lora_B" in name else 1)

    def moved(dtype: torch.dtype | None) -> torch.Tensor:
        layer, ones = ours.get_base_model().model.layers[0].mlp.up_proj, torch.ones(1, ours.config.hidden_size)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            with_update = layer(ones)
            with ours.disable_adapter():
                return with_update - layer(ones)

    exact = moved(None)
    assert (moved(torch.bfloat16) - exact).norm() < 0.1 * exact.norm()


def test_disabled_and_merged_adapters_are_peft_s_business(tiny_llama):
    model, ours = adapted(tiny_llama)
    ids = torch.arange(2, 14)[None]
    with model.disable_adapter(), ours.disable_adapter():
        assert torch.equal(ours(input_ids=ids).logits, model(input_ids=ids).logits)
    before = ours(input_ids=ids).logits
    torch.testing.assert_close(ours.merge_and_unload()(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)


def test_a_hook_on_the_base_layer_still_runs(tiny_llama):
    """A bottleneck adapter below LoRA is such a hook: without it the stack would compute another function."""
    model, ours = adapted(tiny_llama)
    ids = torch.arange(2, 14)[None]
    plain = ours(input_ids=ids).logits
    for each in (model, ours):
        for layer in each.modules():
            if isinstance(layer, Linear):
                layer.get_base_layer().register_forward_hook(lambda layer, inputs, output: 2 * output)
    assert not torch.equal(ours(input_ids=ids).logits, plain)
    assert torch.equal(ours(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_what_is_more_than_the_product_stays_as_it_is(tiny_llama, config):
    """Dropout is there in training alone: the same random numbers give the same output."""
    model, ours = adapted(tiny_llama, **config)
    ids = torch.arange(2, 14)[None]
    outputs = []
    for each in (model, ours):
        torch.manual_seed(1)
        outputs.append(each.train()(input_ids=ids).logits)
    assert torch.equal(*outputs)
