"""Parts of a model are found by structure."""

from __future__ import annotations

import pytest
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig, T5Config

from posttrain.models import blocks
from posttrain.peft.wrap import wrap


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LlamaConfig(), "decoder"),
        (GPT2Config(), "decoder"),
        (T5Config(), "encoder_decoder"),
        (BertConfig(), "encoder"),
        (RobertaConfig(is_decoder=True), "decoder"),
    ],
)
def test_kinds_of_models(config, kind):
    assert blocks.architecture(config) == kind


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("llama", {"model.layers": 2}), ("gpt2", {"transformer.h": 2}), ("t5", {"encoder.block": 3, "decoder.block": 2})],
)
def test_stacks_of_blocks(tiny, kind, expected):
    """T5's blocks hold lists themselves, which are no stacks."""
    assert {name: len(layers) for name, layers in blocks.stacks(tiny(kind))} == expected


def test_short_names_select_what_was_chosen_and_nothing_else():
    everything = {"a.q": 1, "a.v": 1, "b.q": 1, "head": 1, "pool.q2": 1}
    assert blocks.short_names({"a.q": 1, "b.q": 1}, everything) == ["q"]
    assert blocks.short_names({"a.q": 1}, everything) == ["a.q"], "q would select b.q, too"
    assert blocks.short_names({"head": 1, "a.v": 1}, everything) == ["head", "v"]


def test_names_end_at_a_dot():
    assert blocks.ends_with("layers.1.q_proj", ("q_proj",))
    assert blocks.ends_with("q_proj", ("q_proj",))
    assert not blocks.ends_with("layers.1.fused_q_proj", ("q_proj",))


def test_layers_of_an_adapter_are_none_of_the_models(spec, tiny):
    plain, model = tiny("llama"), wrap(tiny("llama"), spec("bottleneck houlsby"), 0, "x")
    assert set(blocks.all_linear(model)) == set(blocks.all_linear(plain))
    assert blocks.attached("model.layers.0.mlp.down_proj.bottleneck.up.bias")
    assert blocks.attached("model.layers.0.mlp.down_proj.bottleneck1.up.bias")
    assert not blocks.attached("model.bottleneck_proj.weight")


def test_widths_of_transposed_layers(tiny):
    layer = tiny("gpt2").transformer.h[0].mlp.c_fc
    assert (blocks.width_in(layer), blocks.width_out(layer)) == (32, 128)
