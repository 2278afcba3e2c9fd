"""Tiny models, tokenizers and examples that the tests of posttrain share: factories, since tests import none of each other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, T5Tokenizer

from posttrain.packing import Example
from posttrain.tokenizer import prepare_tokenizer, train_tokenizer
from schemas.training import LoRA

TEXTS = [
    "User:\nWrite a review of the hotel.\n\nAssistant:\nThe hotel was clean and the staff was kind.",
    "Hello, world! 1, 2, 3.",
]


@pytest.fixture(scope="session")
def _trained_tokenizer():
    return prepare_tokenizer(train_tokenizer(TEXTS * 3, 320))


@pytest.fixture
def tokenizer(_trained_tokenizer):
    """A byte-level BPE of 320 tokens with the default chat template; EOS is token 0, padding token 1. Free to be changed."""
    return copy.deepcopy(_trained_tokenizer)


@pytest.fixture
def with_bos(tokenizer):
    """The tokenizer with a BOS token, which it puts before every text by itself, and no chat template."""
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    before = ("<|bos|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[before])
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture
def t5_tokenizer():
    """T5's tokenizer on single characters: padding is 0, EOS 1, which it puts after every text; line breaks become blanks."""
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:,?!0123456789"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in characters)]
    return prepare_tokenizer(T5Tokenizer(vocab=pieces, extra_ids=0))


@pytest.fixture(scope="session")
def tiny_llama():
    """Builds a Llama with grouped-query attention and tied embeddings."""

    def build(vocabulary: int = 97, seed: int = 0, **changes) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "eos_token_id": 0,
            "pad_token_id": 1,
            "bos_token_id": None,
        }
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape | changes)).eval()

    return build


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_llama, _trained_tokenizer):
    """A folder with a tiny model and its tokenizer. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_llama(len(_trained_tokenizer), initializer_range=0.2).save_pretrained(folder)
    _trained_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_examples():
    """Builds examples from (prompt length, branch lengths …) with tokens below the vocabulary size."""

    def build(sizes, vocabulary: int = 97, seed: int = 0) -> list[Example]:
        rng = np.random.default_rng(seed)
        drawn = [[rng.integers(2, vocabulary, n).astype(np.int32) for n in row] for row in sizes]
        return [Example(prompt, tuple(branches)) for prompt, *branches in drawn]

    return build


@pytest.fixture(scope="session")
def lora():
    """Builds a small LoRA section of a recipe."""

    def build(**changes) -> LoRA:
        return LoRA(**{"method": "lora", "r": 4, "alpha": 8, "target_modules": ("q_proj", "v_proj")} | changes)

    return build


@pytest.fixture(scope="session")
def chi_square():
    """Measures how far counts are from probabilities: Pearson's statistic in standard deviations from its expectation.

    Cells with less than 5 expected counts are taken together.
    """

    def distance(counts: np.ndarray, p: np.ndarray) -> float:
        expected = p * counts.sum()
        cells = expected >= 5
        if (rest := expected[~cells].sum()) >= 5:
            counts, expected = np.append(counts[cells], counts[~cells].sum()), np.append(expected[cells], rest)
        else:
            counts, expected = counts[cells], expected[cells]
        freedom = len(counts) - 1
        return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))

    return distance
