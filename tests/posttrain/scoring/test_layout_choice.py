"""The start-up check takes the fastest layout that is exact, and leaves the scorer as it found it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from posttrain.scoring.layout_choice import choose_layout, layout_error, take_first_layout
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.scoring.segment_attention import SEGMENTS

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
WIDE = SHAPE | {"head_dim": 8}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    # Soft caps on attention and logits; every second layer sees a window of 4 tokens, shorter than the examples.
    "gemma2": (
        Gemma2ForCausalLM, Gemma2Config(**WIDE, final_logit_softcapping=5.0, sliding_window=4, attn_implementation="eager"),
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**WIDE, sliding_window=4, use_sliding_window=True, max_window_layers=1)),
    "mistral": (MistralForCausalLM, MistralConfig(**WIDE, sliding_window=4)),
}  # fmt: skip


def build(name: str = "llama"):
    torch.manual_seed(0)
    kind, config = MODELS[name]
    return kind(copy.deepcopy(config)).eval()


@pytest.fixture
def pairs(random_examples):
    return random_examples([(7, 5, 9), (3, 4, 2)])


@pytest.mark.parametrize("name", MODELS)
def test_models_whose_packing_is_exact_are_packed(name, pairs):
    """With the model's own attention and an explicit mask, and on the CPU with segments in the place of SDPA."""
    model = build(name)
    scorer = Scorer(model, CPU)
    assert layout_error(scorer, "packed", pairs) < 1e-5
    own = model.config._attn_implementation
    choice = choose_layout(scorer, pairs)
    assert (choice.layout, choice.attention) == ("packed", SEGMENTS if own == "sdpa" else own)
    assert str(choice).startswith("packed with segments" if own == "sdpa" else "packed: differs")
    choice.apply(scorer)
    assert layout_error(scorer, "packed", pairs) < 1e-5
    assert (scorer.layout, model.config._attn_implementation) == (choice.layout, choice.attention)


def test_choosing_changes_neither_scorer_nor_model(pairs):
    model = build()
    scorer = Scorer(model, CPU, layout="packed")
    assert choose_layout(scorer, pairs).attention == SEGMENTS
    assert (scorer.layout, model.config._attn_implementation) == ("packed", "sdpa")
    assert all(p.grad is None for p in model.parameters())


def test_rows_are_padded_where_the_model_ignores_the_mask(pairs):
    """An attention that drops the block mask lets packed sequences see each other: scores move."""
    model = build()
    attention = model.model.forward
    model.model.forward = lambda *a, attention_mask=None, segments=None, **k: attention(*a, **k)
    choice = choose_layout(Scorer(model, CPU), pairs)
    assert choice.layout == "padded"
    assert str(choice).startswith("padded: differs")
    assert any("packed would change" in doubt for doubt in choice.doubts)


def test_the_models_own_logits_are_taken_where_no_layout_is_exact(pairs):
    """A model that does something between its last hidden state and its head: only its own logits are right."""
    model = build()
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * head(hidden)
    choice = choose_layout(Scorer(model, CPU), pairs)
    assert (choice.layout, choice.attention, choice.error) == ("plain", "sdpa", None)
    assert str(choice).startswith("plain")


def test_an_encoder_decoder_keeps_its_layout(pairs):
    torch.manual_seed(0)
    config = T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    choice = choose_layout(Scorer(T5ForConditionalGeneration(config).eval(), CPU), pairs)
    assert str(choice).startswith("encoder_decoder: differs")


@pytest.mark.parametrize(("name", "layout", "attention"), [("llama", "packed", SEGMENTS), ("gemma2", "packed", "eager")])
def test_the_first_layout_that_is_not_refused_is_taken_without_a_comparison(name, layout, attention, pairs):
    scorer = Scorer(build(name), CPU).eval()
    take_first_layout(scorer, pairs)
    assert (scorer.layout, inner_model(scorer.model).config._attn_implementation) == (layout, attention)


def test_a_layout_that_the_model_refuses_is_passed_over(pairs):
    """BLOOM makes its ALiBi positions from a mask of two dimensions, and a packed row has one of four."""
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)).eval()
    scorer = Scorer(model, CPU).eval()
    assert choose_layout(scorer, pairs).layout == "padded"
    take_first_layout(scorer, pairs)
    assert scorer.layout == "padded"
