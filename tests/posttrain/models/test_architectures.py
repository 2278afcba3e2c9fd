"""Decoders of every common family, tiny and random: the layout that the start-up check takes scores them exactly.

Windows are shorter than the rows, and weights large enough that a token from outside a window or sequence would be noticed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from posttrain.data.packing import Example
from posttrain.models.architectures import longest_sequence
from posttrain.models.positions import UNLIMITED
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 1, "bos_token_id": 0}  # fmt: skip
WINDOW = 4
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

CONFIGS = {
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3),
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2 with a window in one layer": Qwen2Config(**SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=WINDOW),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, **ALTERNATING, final_logit_softcapping=5.0, attn_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, **ALTERNATING),
    "mistral": MistralConfig(**SHAPE, sliding_window=WINDOW),
    "mistral without a window": MistralConfig(**SHAPE, sliding_window=None),
}


@pytest.fixture(params=[None, "eager"], ids=["default", "eager"])
def build(request):
    """Builds a random model with its family's attention (SDPA; eager for Gemma 2, whose scores are capped), or the eager one."""

    def model(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=request.param).eval()

    return model


@pytest.fixture
def pairs(random_examples) -> list[Example]:
    """Prompts and responses longer than the window, and shorter."""
    return random_examples([(17, 15, 19), (3, 14, 2), (12, 1, 9)])


@torch.no_grad()
def separately(model, examples: list[Example]) -> torch.Tensor:
    """Log-probabilities of every completion token: the model's own logits on `prompt · branch`, one at a time."""
    found = []
    for example in examples:
        for branch in example.branches:
            ids = torch.from_numpy(np.concatenate([example.prompt, branch]).astype(np.int64))[None]
            logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[len(example.prompt) - 1 :, 0])
    return torch.cat(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_layout_that_is_taken_scores_as_the_model_does(name, build, pairs):
    model = build(name)
    scorer = Scorer(model, CPU)
    choice = choose_layout(scorer, pairs)
    choice.apply(scorer)
    with torch.no_grad():
        torch.testing.assert_close(scorer(pairs).logprobs, separately(model, pairs), atol=1e-4, rtol=1e-4)
    assert choice.layout == "packed", choice


@pytest.mark.parametrize("name", [name for name in CONFIGS if getattr(CONFIGS[name], "sliding_window", None)])
def test_a_window_is_felt_at_the_lengths_of_these_tests(name, build, pairs):
    """Else the test above could not tell a model that keeps its window from one that lost it."""
    model = build(name)
    expected = separately(model, pairs)
    unwindowed = CONFIGS[name].to_dict() | {"sliding_window": 4096}
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(type(CONFIGS[name])(**unwindowed)).eval()
    other.load_state_dict(model.state_dict())
    assert (separately(other, pairs) - expected).abs().max() > 1e-2


SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
NARROW = {"vocab_size": 97, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 24, "rotary_dim": 4}
STACKS = {"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
          "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 1,
          "max_position_embeddings": 24}  # fmt: skip
PROPHET = {"vocab_size": 97, "hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1,
           "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "encoder_ffn_dim": 48,
           "decoder_ffn_dim": 48}  # fmt: skip
TABLES = {
    "bert-generation": SMALL,
    "big_bird": {**SMALL, "attention_type": "original_full"}, "convbert": {**SMALL, "embedding_size": 32},
    "mpnet": SMALL, "rembert": SMALL, "roberta": SMALL, "roberta-prelayernorm": SMALL, "roformer": SMALL, "xlm-roberta-xl": SMALL,
    "codegen": {**NARROW, "n_ctx": 24}, "gpt2": NARROW, "gptj": NARROW, "openai-gpt": NARROW,
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bart": STACKS, "marian": {**STACKS, "decoder_start_token_id": 1}, "prophetnet": PROPHET,
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("family", TABLES)
def test_a_table_of_positions_ends_where_it_is_said_to(family):
    """One token more is an index that is not there."""
    config = AutoConfig.for_model(family, **TABLES[family])
    if "n_positions" not in TABLES[family]:
        config.max_position_embeddings, config.pad_token_id = 24, 1
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    ids = torch.full((1, longest_sequence(config)), 5)
    longer = torch.cat([ids, ids[:, :1]], 1)
    model(ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {}))
    with pytest.raises((IndexError, RuntimeError)):
        model(longer, **({"decoder_input_ids": longer} if config.is_encoder_decoder else {}))


@pytest.mark.parametrize(("family", "changes", "positions"), [
    ("led", {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 24, "attention_window": 8}, 24),
    ("bigbird_pegasus", {"attention_type": "original_full"}, 24),
    ("fsmt", {"langs": ["a", "b"], "src_vocab_size": 97, "tgt_vocab_size": 97}, 24),
])  # fmt: skip
def test_of_two_tables_the_shorter_one_counts(family, changes, positions):
    config = AutoConfig.for_model(family, **STACKS | changes)
    assert longest_sequence(config) == positions


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gpt2"])
def test_positions_that_are_computed_have_no_end(name):
    assert longest_sequence(CONFIGS[name]) == UNLIMITED
