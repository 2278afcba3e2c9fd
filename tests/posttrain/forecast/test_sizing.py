"""Sizes counted by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, Qwen3Config

from posttrain.forecast.peaks import rewarding, wrapped
from posttrain.forecast.phases import Arithmetic
from posttrain.forecast.sizing import _loading, config_of, counts, size_of
from schemas.load import validate_recipe
from schemas.training import Full

SCRATCH = {
    "source": "scratch",
    "hidden_size": 64,
    "layers": 3,
    "heads": 8,
    "kv_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 500,
}


def recipe(model, **sections):
    data = {name: f"sample://{name}" for name in ("corpus", "instructions", "preferences")}
    return validate_recipe({"name": "tiny", "model": model, "data": data, **sections}, "tiny.yaml")


def sized(asked):
    """Sizes of a recipe's model, and what each of its stages trains."""
    sizes, config = size_of(asked.model), config_of(asked.model)
    for stage, spec in (("sft", asked.sft), ("alignment", asked.alignment)):
        if getattr(spec, "peft", None) is not None:
            sizes[f"trainable_parameters_{stage}"] = counts(wrapped(config, spec.peft))["trainable_parameters"]
    return sizes


def test_a_scratch_model_by_hand():
    """Embedding, shared with the head: 500 · 64 = 32,000. A block: q and o 2 · 64 · 64, k and v 2 · 64 · 16, three matrices of
    64 · 96, two norms of 64: 8,192 + 2,048 + 18,432 + 128 = 28,800. Three blocks and the last norm: 86,464. In all 118,464.

    Cache per token in fp32: 2 (key and value) · 4 bytes · 3 layers · 8 numbers per head · 2 heads = 384; with 8 heads 1,536.
    """
    sizes = sized(recipe(SCRATCH, pretrain={"tokens": 1000}))
    assert sizes["parameters"] == 118_464
    assert sizes["kv_cache_bytes_per_token"] == 384
    assert sizes["kv_cache_without_gqa"] == 1536
    assert not any(name.startswith("trainable") for name in sizes)


def test_a_head_of_its_own_is_counted():
    sizes = sized(recipe(SCRATCH | {"tie_embeddings": False}, pretrain={"tokens": 1000}))
    assert sizes["parameters"] == 118_464 + 32_000


def test_trainable_parameters_per_stage_by_hand():
    """Full: all. LoRA of rank 4 on q (64 → 64) and v (64 → 16): 3 · (4·64 + 64·4 + 4·64 + 16·4) = 2,496."""
    lora = {"method": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    sizes = sized(recipe(SCRATCH, pretrain={"tokens": 1000}, sft={"peft": {"method": "full"}},
                           alignment={"algorithm": "dpo", "peft": lora}))  # fmt: skip
    assert sizes["trainable_parameters_sft"] == sizes["parameters"] == 118_464
    assert sizes["trainable_parameters_alignment"] == 2_496


def test_a_method_that_adds_weights_to_the_model_leaves_its_size_as_it_is():
    """BitFit gives this model biases of zero: q and o 64 each, k and v 16 each, 96 twice and 64, in three blocks 1,248."""
    sizes = sized(recipe(SCRATCH, pretrain={"tokens": 1000}, sft={"peft": {"method": "bitfit"}}))
    assert (sizes["parameters"], sizes["trainable_parameters_sft"]) == (118_464, 1_248)


def test_a_model_without_grouped_queries_has_one_cache_size(tmp_path):
    """GPT-2 with 2 layers, 4 heads of 8 numbers: 2 · 4 · 2 · 32 = 512 bytes."""
    GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=16).save_pretrained(tmp_path)
    sizes = sized(recipe({"source": "local", "path": str(tmp_path)}, sft={"peft": {"method": "full"}}))
    assert sizes["kv_cache_bytes_per_token"] == sizes["kv_cache_without_gqa"] == 512


def test_heads_wider_than_their_share_of_the_model_are_counted(tmp_path):
    """Qwen3 (as Gemma) sets head_dim by itself: 2 · 4 bytes · 2 layers · 32 numbers · 2 heads = 1,024; with 4 heads 2,048."""
    Qwen3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        vocab_size=100,
    ).save_pretrained(tmp_path)  # fmt: skip
    sizes = sized(recipe({"source": "local", "path": str(tmp_path)}, sft={"peft": {"method": "full"}}))
    assert (sizes["kv_cache_bytes_per_token"], sizes["kv_cache_without_gqa"]) == (1024, 2048)


def test_an_encoder_decoder_by_hand():
    """Embedding, shared with the head: 32,000. An encoder block: four matrices of 64 · 64, three of 64 · 96, two norms: 34,944. A
    decoder block attends twice: 51,392. Each stack has a norm of 64 and biases of 32 distances · 8 heads. In all 291,648.

    Cache per answered token: 2 · 4 bytes · 3 decoder layers · 8 numbers · 8 heads = 1,536. LoRA has rank 4, on q and v of the
    nine attentions: 9 · 2 · (4 · 64 + 64 · 4).
    """
    model = {name: value for name, value in SCRATCH.items() if name != "kv_heads"} | {"architecture": "t5"}
    q_and_v = {"method": "lora", "r": 4, "alpha": 8, "target_modules": ["q", "v"]}
    sizes = sized(recipe(model, pretrain={"tokens": 1000}, alignment={"algorithm": "dpo", "peft": q_and_v}))
    assert sizes["parameters"] == 32_000 + 3 * (34_944 + 51_392) + 2 * (64 + 32 * 8) == 291_648
    assert sizes["trainable_parameters_alignment"] == 9 * 2 * (4 * 64 + 64 * 4)
    assert sizes["kv_cache_bytes_per_token"] == sizes["kv_cache_without_gqa"] == 1536


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_far_larger_than_memory_can_be_sized(method):
    """A block of Llama 3 70B: 2 · 8192² + 2 · 8192 · 1024 + 3 · 8192 · 28672 + 2 · 8192 = 855,654,400; 80 of them, the last
    norm (8,192) and two matrices of 128,256 · 8,192 make 70,553,706,496."""
    model = {"source": "scratch", "hidden_size": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "intermediate_size": 28672,
             "vocab_size": 128256, "tie_embeddings": False}  # fmt: skip
    sizes = sized(recipe(model, pretrain={"tokens": 1000}, sft={"peft": {"method": method}}))
    assert sizes["parameters"] == 70_553_706_496
    assert sizes["kv_cache_bytes_per_token"] == 2 * 4 * 80 * 128 * 8


def test_a_checkpoint_in_half_precision_is_mapped_while_it_becomes_fp32(tmp_path):
    """118,464 parameters (above): 6 bytes each while they are loaded; a file in fp32 is mapped and used as it is."""
    on = Arithmetic(torch.device("cpu"), torch.float32)
    config = config_of(recipe(SCRATCH, pretrain={"tokens": 1000}).model)
    config.dtype = torch.bfloat16
    assert [(peak.phase, peak.weights) for peak in _loading(config, on)] == [("loading the weights", 6 * 118_464)]
    config.dtype = torch.float32
    assert _loading(config, on) == []


@pytest.mark.parametrize(("make", "shape"), [(wrapped, LlamaConfig), (rewarding, LlamaConfig), (rewarding, BertConfig)])
def test_weights_are_forecast_in_fp32_whatever_the_config_says(make, shape):
    """Most public checkpoints say bfloat16, and stages load them in fp32; in half precision `check` ended in a traceback."""
    config = shape(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    config.dtype = torch.bfloat16
    assert {each.dtype for each in make(config, Full(method="full")).parameters()} == {torch.float32}
    assert config.dtype == torch.bfloat16  # by which the peak while loading is known
