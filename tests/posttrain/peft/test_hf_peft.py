"""The recipe's words in peft's: what is set, on which layers, and what is refused instead of adjusted."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from posttrain.models.policy import Policy
from posttrain.peft.wrap import save_trained, trainable_state, wrap


def config_of(model):
    return model.peft_config["default"]


def layers_of(model, word: str) -> set[str]:
    """Names of the layers that have a trainable tensor with this word in its name."""
    return {name.split(f".{word}")[0].rpartition(".")[2] for name in trainable_state(model) if word in name}


@pytest.mark.parametrize(
    ("name", "changes", "field", "value"),
    [
        ("lora", {"r": 3, "alpha": 5, "dropout": 0.25}, ("r", "lora_alpha", "lora_dropout"), (3, 5, 0.25)),
        ("lora", {}, ("init_lora_weights",), (True,)),
        ("lora", {"init": "gaussian"}, ("init_lora_weights",), ("gaussian",)),
        ("adalora", {"alpha": 9}, ("init_r", "target_r", "lora_alpha"), (4, 2, 9)),
        ("vera", {"d_initial": 0.5}, ("r", "d_initial", "projection_prng_key"), (16, 0.5, 11)),
        ("oft", {"neumann": False}, ("oft_block_size", "use_cayley_neumann"), (16, False)),
        ("loha", {"alpha": 3, "dropout": 0.5}, ("r", "alpha", "rank_dropout"), (2, 3, 0.5)),
        ("lokr", {"factor": 4}, ("r", "decompose_factor"), (2, 4)),
        ("prefix_tuning projected", {}, ("prefix_projection", "encoder_hidden_size"), (True, 16)),
        ("p_tuning lstm", {}, ("encoder_reparameterization_type", "encoder_hidden_size"), ("LSTM", 16)),
    ],
)
def test_fields_reach_peft(spec, tiny, name, changes, field, value):
    config = config_of(wrap(tiny("llama"), spec(name, **changes), 11, "sft.peft"))
    assert tuple(getattr(config, part) for part in field) == value


@pytest.mark.parametrize("name", ["lora", "vera", "loha", "adalora"])
def test_all_linear_is_written_out_in_short_names_without_the_head(spec, tiny, name):
    model = wrap(tiny("llama", tie_word_embeddings=False), spec(name), 0, "sft.peft")
    assert set(config_of(model).target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_only_the_named_layers_are_trained(spec, tiny):
    assert layers_of(wrap(tiny("llama"), spec("lora", target_modules=("v_proj",)), 0, "x"), "lora_A") == {"v_proj"}
    t5 = wrap(tiny("t5"), spec("lora", target_modules=("EncDecAttention.q",)), 0, "x")
    assert all("decoder" in name and "EncDecAttention.q" in name for name in trainable_state(t5))


@pytest.mark.parametrize(
    ("kind", "layers", "inner"),
    [
        ("llama", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
        ("gpt2", {"c_attn", "c_proj"}, {"mlp.c_proj"}),
        ("t5", {"k", "v", "wo"}, {"wo"}),
    ],
)
def test_ia3_scales_keys_values_and_what_goes_into_the_last_matrix(spec, tiny, kind, layers, inner):
    model = wrap(tiny(kind), spec("ia3"), 0, "sft.peft")
    assert layers_of(model, "ia3_l") == layers
    scaled = [name for name in trainable_state(model) if any(f".{part}." in name for part in inner)]
    width = {"llama": 48, "gpt2": 128, "t5": 48}[kind]
    assert scaled
    assert all(model.get_parameter(name).numel() == width for name in scaled), "the inputs of the last matrix, not its outputs"
    if kind == "gpt2":
        assert not any("attn.c_proj" in name for name in trainable_state(model))


def test_ia3_on_named_layers(spec, tiny):
    model = wrap(tiny("llama"), spec("ia3", target_modules=("q_proj", "up_proj"), feedforward_modules=("up_proj",)), 0, "x")
    sizes = {name.split(".ia3")[0].rpartition(".")[2]: p.numel() for name, p in trainable_state(model).items()}
    assert sizes == {"q_proj": 32, "up_proj": 32}


def test_ia3_knows_fused_keys_and_values(spec):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}
    model = wrap(Phi3ForCausalLM(Phi3Config(num_hidden_layers=1, pad_token_id=0, **shape)), spec("ia3"), 0, "sft.peft")
    assert layers_of(model, "ia3_l") == {"qkv_proj", "down_proj"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", {"input_layernorm", "post_attention_layernorm", "norm"}),
        ("gpt2", {"ln_1", "ln_2", "ln_f"}),
        ("t5", {"layer_norm", "final_layer_norm"}),
    ],
)
def test_ln_tuning_trains_every_norm(spec, tiny, kind, expected):
    model, plain = wrap(tiny(kind), spec("ln_tuning"), 0, "sft.peft"), tiny(kind)
    assert layers_of(model, "ln_tuning_layers") == expected
    own = {name for name, m in plain.named_modules() if "norm" in type(m).__name__.lower()}
    assert len({name.split(".ln_tuning_layers")[0] for name in trainable_state(model)}) == len(own)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lora pissa", "lora olora"])
def test_a_decomposed_init_takes_its_part_out_of_the_weight(spec, tiny, name):
    """The frozen weight and scale · B A add up to the weight that was there, and B A is not small."""
    original = tiny("llama").model.layers[0].self_attn.q_proj.weight
    layer = wrap(tiny("llama"), spec(name), 0, "x").get_base_model().model.layers[0].self_attn.q_proj
    part = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.base_layer.weight + part, original, atol=1e-5, rtol=0)
    assert part.norm() > 0.2 * original.norm()


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 16.0), (True, pytest.approx(8 * 2**0.5))])
def test_such_an_adapter_is_saved_as_a_plain_one_of_twice_the_rank(spec, tiny, tmp_path, rslora, alpha):
    chosen = spec("lora pissa", use_rslora=rslora)
    save_trained(wrap(tiny("llama"), chosen, 0, "x"), None, chosen, Policy(""), tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, alpha, True)


def test_only_what_was_wrapped_is_saved(spec, tiny, tmp_path):
    for model in (tiny("llama"), wrap(tiny("llama"), spec("ia3"), 0, "x")):
        with pytest.raises(ValueError, match="lora is not the method of this model"):
            save_trained(model, None, spec("lora"), Policy(""), tmp_path)
