"""Tokens per pass, by hand."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, T5Config

from posttrain.forecast.peaks import wrapped
from posttrain.models.architectures import auto_class
from posttrain.scoring.token_budget import rollout_tokens, scoring_tokens, training_tokens
from schemas.training import Full, LoRA

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def llama(layers: int, tied: bool = True) -> LlamaConfig:
    return LlamaConfig(vocab_size=30_000, hidden_size=512, intermediate_size=1024, num_hidden_layers=layers,
                       num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=tied)  # fmt: skip


def tokens(config, peft=None, dtype=torch.float32) -> int:
    return training_tokens(wrapped(config, peft or Full(method="full")), CPU, dtype)


def test_a_deep_model_gets_as_many_tokens_as_its_activations_leave_room_for():
    """A block has 2 · 512² + 2 · 512 · 128 + 3 · 512 · 1024 + 2 · 512 = 2,229,248 weights: 4,354 per unit of width. 20 of them
    keep 4 · 3 · 20 · 4,354 = 1,044,960 bytes a token, the last norm 12: 2^30 bytes are 1,027 tokens, 8 times 128."""
    assert tokens(llama(20)) == 1024


def test_the_tables_of_tokens_do_not_count():
    assert tokens(llama(20, tied=False)) == tokens(llama(20))


def test_a_small_model_fills_the_pass_and_a_large_one_gets_fewer_rows():
    assert tokens(llama(2)) == 4096
    assert tokens(llama(80)) == 512


def test_half_precision_wants_longer_passes_of_a_large_model_alone():
    assert tokens(llama(80), dtype=torch.bfloat16) == tokens(llama(80), dtype=torch.float16) == 640
    assert tokens(llama(20), dtype=torch.bfloat16) == tokens(llama(20))


def test_an_adapter_leaves_the_budget_about_as_it_is():
    assert tokens(llama(20), LoRA(method="lora", r=4)) in (896, 1024)


def test_an_encoder_decoder_counts_both_stacks():
    """T5 small with 2 + 2 blocks: 2 · (3,146,496 + 4,195,840) weights and 768 more: 28,683 per unit of width, 344,196 bytes a
    token: 3,119 of them fit."""
    with torch.device("meta"):
        model = auto_class(config := T5Config(num_layers=2)).from_config(config)
    assert training_tokens(model, CPU, torch.float32) == 3072


def test_rollouts_take_no_more_than_training_and_a_gpu_takes_its_own():
    model = wrapped(llama(80), Full(method="full"))
    assert rollout_tokens(model, CPU, torch.float32) == 512
    assert training_tokens(model, CUDA, torch.bfloat16) == rollout_tokens(model, CUDA, torch.bfloat16) == 16384
    assert scoring_tokens(CUDA) == 65536
