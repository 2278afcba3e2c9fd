"""What an adapter reaches, counted by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from posttrain.peft.reach import reach_of
from posttrain.peft.wrap import wrap
from schemas.training import Full, LoRA

SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 48, "num_local_experts": 4}  # fmt: skip


def test_the_experts_that_all_linear_passes_by_are_counted():
    """Attention has 32·32 + 2·32·16 + 32·32 weights a block; experts and router, embedding, head and norms have no adapter."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MixtralConfig(**SHAPE))
        found = reach_of(wrap(model, LoRA(method="lora", r=2), 0, "sft.peft"))
    attention = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32)
    beside = 2 * (4 * 3 * 32 * 48 + 4 * 32) + 2 * 97 * 32 + 5 * 32
    assert found["reaches"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert found["leaves_out"][0] == "experts"
    assert found["left_out_share"] == pytest.approx(beside / (attention + beside), abs=1e-4)


def test_without_an_adapter_there_is_nothing_to_say(tiny_llama):
    assert reach_of(wrap(tiny_llama(), Full(method="full"), 0, "sft.peft")) == {}
