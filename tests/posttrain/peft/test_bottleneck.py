"""Bottleneck adapters: where they sit, and what they compute by hand."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from posttrain.peft.delta import Bottleneck, add_bottleneck
from posttrain.peft.wrap import trainable_state, wrap
from schemas.errors import Refusal


def places(model) -> list[str]:
    return sorted(name.removesuffix(".bottleneck") for name, m in model.named_modules() if isinstance(m, Bottleneck))


@pytest.mark.parametrize(
    ("variant", "kind", "expected"),
    [
        ("pfeiffer", "llama", [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]),
        (
            "houlsby",
            "llama",
            sorted(f"model.layers.{i}.{part}" for i in (0, 1) for part in ("mlp.down_proj", "self_attn.o_proj")),
        ),
        ("parallel", "llama", [f"model.layers.{i}.mlp" for i in (0, 1)]),
        ("houlsby", "gpt2", sorted(f"transformer.h.{i}.{part}.c_proj" for i in (0, 1) for part in ("attn", "mlp"))),
        ("parallel", "gpt2", [f"transformer.h.{i}.mlp" for i in (0, 1)]),
    ],
)
def test_places(spec, tiny, variant, kind, expected):
    model = wrap(tiny(kind), spec("bottleneck pfeiffer", variant=variant), 0, "sft.peft")
    assert places(model) == expected


def test_places_in_an_encoder_decoder(spec, tiny):
    """3 encoder blocks of attention and feed-forward, 2 decoder blocks of attention, cross-attention and feed-forward."""
    found = places(wrap(tiny("t5"), spec("bottleneck houlsby"), 0, "sft.peft"))
    assert sum(name.endswith("SelfAttention.o") for name in found) == 5
    assert sum(name.endswith("EncDecAttention.o") for name in found) == 2
    assert sum(name.endswith("DenseReluDense.wo") for name in found) == 5
    assert len(found) == 12


def test_the_size_by_hand(spec, tiny):
    """Width 32, reduction 4: 32·8 + 8 down and 8·32 + 32 up are 552 numbers; one in each of two blocks."""
    model = wrap(tiny("llama"), spec("bottleneck pfeiffer", reduction_factor=4), 0, "sft.peft")
    assert sum(p.numel() for p in trainable_state(model).values()) == 2 * 552
    narrow = wrap(tiny("llama"), spec("bottleneck pfeiffer", reduction_factor=1000), 0, "sft.peft")
    assert sum(p.numel() for p in trainable_state(narrow).values()) == 2 * (32 + 1 + 32 + 32), "one number wide at least"


class Double(nn.Module):
    """y = 2 x, with a weight so that it has a device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


def filled(parallel: bool, activation: str = "relu") -> Double:
    """Down-projection [1, -1] + 1, up-projection (3, 0) + (0, 5), scale 10."""
    layer = Double()
    add_bottleneck(layer, width=2, size=1, activation=activation, scale=10, parallel=parallel, name="bottleneck")
    with torch.no_grad():
        layer.bottleneck.down.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.bottleneck.down.bias.fill_(1.0)
        layer.bottleneck.up.weight.copy_(torch.tensor([[3.0], [0.0]]))
        layer.bottleneck.up.bias.copy_(torch.tensor([0.0, 5.0]))
    return layer


@pytest.mark.parametrize(
    ("parallel", "x", "expected"),
    [
        # y = (4, 2): down 4 - 2 + 1 = 3, up (9, 5), times 10, plus y.
        (False, (2.0, 1.0), (94.0, 52.0)),
        # x itself: down 2 - 1 + 1 = 2, up (6, 5), times 10, plus y.
        (True, (2.0, 1.0), (64.0, 52.0)),
        # y = (0, 4): down 0 - 4 + 1 = -3, which the ReLU makes 0: up (0, 5).
        (False, (0.0, 2.0), (0.0, 54.0)),
    ],
)
def test_the_output_by_hand(parallel, x, expected):
    torch.testing.assert_close(filled(parallel)(torch.tensor(x)), torch.tensor(expected))


def test_without_a_kink_the_negative_side_counts():
    """As above with tanh: tanh(-3) = -0.995055."""
    out = filled(False, "tanh")(torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(out, torch.tensor([10 * 3 * -0.995055, 54.0]), atol=1e-4, rtol=0)


def test_the_layer_keeps_its_place_its_name_and_its_type(spec, tiny):
    """Adapters hang below the layer, so that the base's names stay those of its checkpoint and lora can be put above."""
    plain, model = tiny("llama"), wrap(tiny("llama"), spec("bottleneck houlsby"), 0, "sft.peft")
    assert isinstance(model.model.layers[0].self_attn.o_proj, nn.Linear)
    assert set(plain.state_dict()) <= set(model.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_uses_its_own_adapters(copied):
    layer = filled(False)
    other = copied(layer)
    with torch.no_grad():
        layer.bottleneck.up.bias.zero_()
    torch.testing.assert_close(other(torch.tensor([2.0, 1.0])), torch.tensor([94.0, 52.0]))


def test_an_adapter_of_fp32_works_in_a_model_of_bf16(spec, tiny):
    model = wrap(tiny("llama").bfloat16(), spec("bottleneck houlsby"), 0, "sft.peft")
    assert {p.dtype for p in trainable_state(model).values()} == {torch.float32}
    assert model(input_ids=torch.arange(2, 9)[None]).logits.dtype == torch.bfloat16


def test_an_encoder_takes_adapters_in_line(spec):
    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=97))
    found = places(wrap(bert, spec("bottleneck houlsby"), 0, "sft.peft"))
    assert found == sorted(f"encoder.layer.{i}.{part}output.dense" for i in (0, 1) for part in ("attention.", ""))


def test_blocks_with_layers_of_unknown_names_are_refused(spec):
    """Mixtral's experts are one parameter, no linear layers."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}
    model = MixtralForCausalLM(MixtralConfig(num_hidden_layers=1, num_local_experts=2, **shape))
    with pytest.raises(Refusal, match="mixtral") as refused:
        wrap(model, spec("bottleneck houlsby"), 0, "alignment.peft")
    assert refused.value.where == "alignment.peft.method"


def test_an_expert_is_not_taken_for_the_feed_forward_layer(spec):
    """Qwen2-MoE's shared expert is a linear layer of the usual name, and a part of the layer's output."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}
    config = Qwen2MoeConfig(
        num_hidden_layers=1, num_experts=2, moe_intermediate_size=16, shared_expert_intermediate_size=16, **shape
    )
    with pytest.raises(Refusal, match="qwen2_moe"):
        wrap(Qwen2MoeForCausalLM(config), spec("bottleneck pfeiffer"), 0, "alignment.peft")


def test_an_encoder_has_no_module_to_put_one_beside(spec):
    bert = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, vocab_size=97))
    with pytest.raises(Refusal, match="parallel on a bert"):
        wrap(bert, spec("bottleneck parallel"), 0, "sft.peft")
