"""What cannot work is refused before weights are loaded, with the field and a remedy."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, DeepseekV3Config, GPT2Config, LlamaConfig, MambaConfig, OPTConfig, T5Config

from posttrain.peft.check import MethodUse, check_method, check_recipe, without_numbers
from posttrain.peft.methods import METHODS
from schemas.errors import Refusal
from schemas.load import validate_recipe

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, max_position_embeddings=64, **HEADS
    ),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "t5": T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, decoder_start_token_id=1),
    "bert": BertConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4),
    "opt-350m": OPTConfig(
        vocab_size=97, hidden_size=32, word_embed_proj_dim=16, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4
    ),
    "mamba": MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1),
    "deepseek": DeepseekV3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        first_k_dense_replace=1,
    ),
}

# Method with changes, model, what else is planned, and where and what of the refusal.
IMPOSSIBLE = [
    (("prefix_tuning", {}), "llama", {"gradient_checkpointing": True}, "method", "drops the cache that holds the prefix"),
    (("prompt_tuning", {}), "bert", {}, "method", "kind encoder"),
    (("p_tuning", {}), "bert", {}, "method", "kind encoder"),
    (("oft", {}), "gpt2", {}, "method", "stored transposed"),
    (("loha", {}), "gpt2", {}, "method", "stored transposed"),
    (("lokr", {}), "gpt2", {}, "method", "stored transposed"),
    (("lora", {"init": "olora"}), "gpt2", {}, "init", "stored transposed"),
    (("lora", {"init": "pissa", "r": 32}), "llama", {}, "r", "32 with init pissa"),
    (("lora", {"target_modules": ("q_proj", "c_attn")}), "llama", {}, "target_modules", "c_attn: no linear layer"),
    (("lora", {"target_modules": ("c_attn", "lm_head")}), "gpt2", {}, "target_modules", "shares its matrix"),
    (("ia3", {"target_modules": ("lm_head",)}), "gpt2", {}, "target_modules", "lm_head, which shares"),
    (("lora pissa", {}), "llama", {"below": ("bottleneck",)}, "init", "pissa above a bottleneck adapter"),
    (("prompt_tuning", {}), "opt-350m", {}, "method", "width 16 in a model of width 32"),
    (("p_tuning", {}), "opt-350m", {}, "method", "width 16 in a model of width 32"),
    (("prefix_tuning", {}), "deepseek", {}, "method", "no keys and values by heads"),
    (("prefix_tuning", {}), "mamba", {}, "method", "no keys and values by heads"),
    (("oft", {"block_size": 32}), "llama", {}, "block_size", "48 inputs"),
    (("ia3", {"target_modules": ("wo",)}), "llama", {}, "target_modules", "wo: no linear layer"),
    (("bitfit", {}), "t5", {}, "method", "no bias"),
    (("bitfit", {"graft": False}), "llama", {}, "method", "graft is false"),
    (("last_layers", {"layers": 4}), "llama", {}, "layers", "4"),
    (("last_layers head", {}), "bert", {}, "head", "no output head"),
    (("bottleneck parallel", {}), "bert", {}, "method", "parallel on a bert"),
    (("prompt_tuning", {"virtual_tokens": 20}), "gpt2", {"max_length": 50}, "virtual_tokens", "20 before sequences of up to 50"),
    (("prefix_tuning", {"virtual_tokens": 20}), "gpt2", {"max_length": 50}, "virtual_tokens", "model of 64 positions"),
    (("full", {}), "llama", {"below": ("bottleneck",)}, "method", "full above a bottleneck adapter"),
    (("prompt_tuning", {}), "llama", {"below": ("prefix_tuning",)}, "method", "above a soft prompt"),
    (("full", {}), "llama", {"quantization": "int8"}, "method", "full on a base in int8"),
    (("ia3", {}), "llama", {"quantization": "nf4", "device": "cuda"}, "method", "ia3 on a base in nf4"),
    (("lora pissa", {}), "llama", {"quantization": "nf4", "device": "cuda"}, "init", "not there in full precision"),
    (("lora", {}), "llama", {"quantization": "nf4", "device": "cpu"}, "method", "nf4 on a CPU"),
]  # fmt: skip

POSSIBLE = [
    (("prompt_tuning", {}), "llama", {"gradient_checkpointing": True}),
    (("prefix_tuning", {}), "t5", {"max_length": 10_000}),
    (("lora", {"init": "pissa", "r": 16}), "llama", {}),
    (("lora", {}), "gpt2", {"below": ("bottleneck", "lora")}),
    (("prompt_tuning", {"virtual_tokens": 14}), "gpt2", {"max_length": 50}),
    (("prefix_tuning", {}), "llama", {"max_length": 10_000}),
    (("full", {}), "llama", {"below": ("lora", "bitfit")}),
    (("lora", {}), "llama", {"quantization": "nf4", "device": "cuda"}),
    (("lora dora", {}), "llama", {"quantization": "int8", "device": "cpu"}),
    (("lora", {}), "gpt2", {"quantization": "nf4", "device": "cuda"}),
    (("lora", {}), "bert", {}),
    (("lora", {"target_modules": ("q_proj", "lm_head")}), "llama", {}),
    (("prefix_tuning", {}), "opt-350m", {}),
    (("last_layers", {}), "bert", {}),
]  # fmt: skip


def use(spec, chosen, model: str, more) -> MethodUse:
    return MethodUse(spec(chosen[0], **chosen[1]), "alignment.peft", CONFIGS[model], **more)


@pytest.mark.parametrize(("chosen", "model", "more", "part", "found"), IMPOSSIBLE)
def test_what_cannot_work_is_refused_with_its_field_and_a_remedy(spec, chosen, model, more, part, found):
    refusal = check_method(use(spec, chosen, model, more))
    assert refusal is not None
    assert refusal.where == f"alignment.peft.{part}"
    assert found in refusal.found
    assert refusal.allowed
    assert refusal.remedy


def test_int8_is_refused_where_it_would_quantise_nothing(spec):
    """GPT-2's layers are of a class that torchao does not know and passes over."""
    refusal = check_method(use(spec, ("lora", {}), "gpt2", {"quantization": "int8"}))
    assert refusal is not None
    assert refusal.where == "model.quantization"
    assert "stored transposed" in refusal.found


@pytest.mark.parametrize("below", ["bottleneck", "prompt_tuning", "unmerged"])
def test_a_base_below_an_adapter_that_stays_is_not_quantised(spec, below):
    refusal = check_method(use(spec, ("lora", {}), "llama", {"quantization": "int8", "below": (below,)}))
    assert refusal is not None
    assert refusal.where == "model.quantization"
    assert f"cannot be merged into it ({below})" in refusal.found


@pytest.mark.parametrize(("below", "method"), [((), "p_tuning"), (("prompt_tuning",), "lora")])
def test_noise_on_embeddings_has_no_place_beside_a_soft_prompt(spec, below, method):
    noisy = MethodUse(spec(method), "sft.peft", CONFIGS["llama"], below, neftune_alpha=5.0)
    assert check_method(dataclasses.replace(noisy, neftune_alpha=None)) is None
    refusal = check_method(noisy)
    assert refusal is not None
    assert (refusal.where, refusal.allowed) == ("sft.neftune_alpha", "null")


@pytest.mark.parametrize(("chosen", "model", "more"), POSSIBLE)
def test_what_can_work_is_not(spec, chosen, model, more):
    assert check_method(use(spec, chosen, model, more)) is None


EVERY = [
    "lora", "lora dora", "lora pissa", "lora olora", "lora orthogonal", "adalora", "vera", "oft", "loha", "lokr",
    "bottleneck houlsby", "bottleneck parallel", "prompt_tuning", "prefix_tuning", "prefix_tuning projected", "p_tuning lstm",
    "ia3", "ln_tuning", "bitfit", "last_layers head", "full",
]  # fmt: skip


@pytest.mark.parametrize("model", ["llama", "t5", "gpt2"])
@pytest.mark.parametrize("name", EVERY)
def test_every_method_can_be_put_on_a_model_without_numbers(spec, model, name):
    """Where the method fits; else the refusal is one of the table above."""
    refusal = check_method(use(spec, (name, {}), model, {}))
    refused = {("bitfit", "t5"), ("oft", "gpt2"), ("loha", "gpt2"), ("lokr", "gpt2"), ("lora olora", "gpt2")}
    assert (refusal is not None) == ((name, model) in refused)


def test_the_config_stays_as_it_is(spec):
    """Grafting biases and untying a head set flags: of the copy that is checked."""
    config = copy.deepcopy(CONFIGS["llama"])
    config.tie_word_embeddings = True
    before = config.to_dict()
    for name in ("bitfit", "last_layers head"):
        assert check_method(MethodUse(spec(name), "sft.peft", config)) is None
    assert config.to_dict() == before


def test_a_model_far_larger_than_memory_is_checked(spec):
    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=8, num_attention_heads=64, vocab_size=128256
    )
    for name in ("lora pissa", "bottleneck houlsby", "bitfit", "prompt_tuning"):
        assert check_method(MethodUse(spec(name), "sft.peft", config)) is None
    assert all(p.is_meta for p in without_numbers(config).parameters())


def recipe(sft, align):
    data = {"instructions": "i.jsonl", "preferences": "p.jsonl"}
    document = {"name": "x", "model": {"source": "hub", "name": "a/b"}, "data": data, "sft": {"peft": sft, "max_length": 32},
                "alignment": {"algorithm": "dpo", "peft": align, "max_length": 32}}  # fmt: skip
    return validate_recipe(document, "recipe.yaml")


@pytest.mark.parametrize(
    ("sft", "align", "where"),
    [
        ({"method": "bitfit"}, {"method": "lora"}, "sft.peft.method"),
        ({"method": "lora"}, {"method": "bitfit"}, "alignment.peft.method"),
        ({"method": "bottleneck"}, {"method": "full"}, "alignment.peft.method"),
        ({"method": "prompt_tuning"}, {"method": "p_tuning"}, "alignment.peft.method"),
        ({"method": "full"}, {"method": "last_layers", "layers": 9}, "alignment.peft.layers"),
    ],
)
def test_a_recipe_is_checked_stage_by_stage(sft, align, where):
    with pytest.raises(Refusal) as refused:
        check_recipe(recipe(sft, align), CONFIGS["t5"])
    assert refused.value.where == where


def test_a_recipe_with_gradient_checkpointing_cannot_have_a_prefix():
    chosen = recipe({"method": "full"}, {"method": "prefix_tuning"})
    check_recipe(chosen, CONFIGS["llama"])
    checkpointed = chosen.alignment.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(Refusal, match="gradient checkpointing"):
        check_recipe(chosen.model_copy(update={"alignment": checkpointed}), CONFIGS["llama"])


@pytest.mark.parametrize(
    ("below", "align", "said"),
    [
        (("prompt_tuning",), {"method": "full"}, "full above a soft prompt"),
        (("bottleneck",), {"method": "full"}, "full above a bottleneck adapter"),
        (("prompt_tuning",), {"method": "p_tuning"}, "p_tuning above a soft prompt"),
        (("bottleneck", "unmerged"), {"method": "lora"}, "lora above a bottleneck adapter and an adapter above another one"),
    ],
)
def test_adapters_that_came_with_the_model_stay_below_every_stage(below, align, said):
    aligned = validate_recipe({"name": "x", "model": {"source": "hub", "name": "a/b"}, "data": {"preferences": "p.jsonl"},
                               "alignment": {"algorithm": "dpo", "peft": align, "max_length": 32}}, "recipe.yaml")  # fmt: skip
    check_recipe(aligned, CONFIGS["llama"])
    with pytest.raises(Refusal, match=said):
        check_recipe(aligned, CONFIGS["llama"], below=below)


def test_pretraining_under_an_adapter_that_stays_is_refused():
    document = {
        "name": "x",
        "model": {"source": "hub", "name": "a/b"},
        "data": {"corpus": "c", "preferences": "p"},
        "pretrain": {"tokens": 1000},
    }
    chosen = validate_recipe(document, "recipe.yaml")
    check_recipe(chosen, CONFIGS["llama"])
    with pytest.raises(Refusal, match="an adapter that cannot be merged") as refused:
        check_recipe(chosen, CONFIGS["llama"], below=("prompt_tuning",))
    assert refused.value.where == "pretrain"


def test_a_soft_prompt_of_the_stage_before_takes_positions_too():
    """GPT-2 of 64 positions: 33 virtual tokens leave 31 for alignment, which asks for 32."""
    fits, beyond = ({"method": "prompt_tuning", "virtual_tokens": n} for n in (32, 33))
    check_recipe(recipe(fits, {"method": "lora"}), CONFIGS["gpt2"])
    short = recipe(beyond, {"method": "lora"})
    short = short.model_copy(update={"sft": short.sft.model_copy(update={"max_length": 31})})
    with pytest.raises(Refusal, match="32 after 33 virtual tokens, in a model of 64 positions") as refused:
        check_recipe(short, CONFIGS["gpt2"])
    assert (refused.value.where, refused.value.allowed) == ("alignment.max_length", "at most 31")


def test_a_soft_prompt_that_came_with_the_model_takes_positions_too():
    chosen = recipe({"method": "lora"}, {"method": "lora"})
    check_recipe(chosen, CONFIGS["gpt2"], below=("prompt_tuning",), virtual_tokens=32)
    with pytest.raises(Refusal, match="32 after 33 virtual tokens") as refused:
        check_recipe(chosen, CONFIGS["gpt2"], below=("prompt_tuning",), virtual_tokens=33)
    assert refused.value.where == "sft.max_length"


def test_a_recipe_that_works_passes():
    check_recipe(recipe({"method": "prompt_tuning"}, {"method": "lora"}), CONFIGS["llama"])
    check_recipe(recipe({"method": "full"}, {"method": "bottleneck"}), CONFIGS["gpt2"])
    document = {"name": "x", "model": {"source": "hub", "name": "a"}, "data": {"instructions": "i"}, "sft": {}}
    check_recipe(validate_recipe(document, "x"), CONFIGS["bert"])


def test_the_table_is_read_without_torch():
    """A recipe is checked at once: importing torch takes seconds."""
    code = "import sys, posttrain.peft.methods; sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_table_agrees_with_the_published_one():
    """Families of arXiv 2303.15647: every method has one. The shares are measured, by `python -m bench peft`."""
    families = {"none", "reparametrization", "adapters", "soft prompts", "scaling", "selective"}
    assert {method.family for method in METHODS.values()} == families
    assert [name for name, method in METHODS.items() if not method.packing] == ["prompt_tuning", "prefix_tuning", "p_tuning"]
    assert [name for name, method in METHODS.items() if not method.gradient_checkpointing] == ["prefix_tuning"]


def test_prefix_tuning_and_gradient_checkpointing_do_not_go_together(spec, tiny):
    """Why the table says so: peft refuses a model that has it switched on, too late for a recipe."""
    from posttrain.peft.wrap import wrap

    model = tiny("llama")
    model.gradient_checkpointing_enable()
    with pytest.raises(Refusal, match="gradient checkpointing"):
        wrap(model, spec("prefix_tuning"), 0, "sft.peft")


@pytest.mark.parametrize("name", ["lora", "bottleneck houlsby", "bitfit", "last_layers", "prompt_tuning", "ia3"])
def test_with_gradient_checkpointing_gradients_are_the_same(spec, tiny, name):
    from posttrain.peft.soft_prompts import padded_logits
    from posttrain.peft.wrap import trainable_state, wrap

    ids, found = torch.arange(2, 14)[None], []
    for checkpointing in (False, True):
        model = wrap(tiny("llama"), spec(name), 0, "sft.peft").train()
        if checkpointing:
            inner = model.get_base_model() if hasattr(model, "get_base_model") else model
            inner.gradient_checkpointing_enable()
        padded_logits(model, ids, torch.ones_like(ids)).square().mean().backward()
        found.append({key: p.grad for key, p in trainable_state(model).items()})
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient)
    assert any(gradient.abs().max() > 0 for gradient in found[0].values())
