"""Tokens without an embedding are refused with their counts."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from posttrain.models.vocabulary import refuse_unknown_tokens
from schemas.errors import Refusal


def test_tokens_beyond_the_embeddings_are_counted_and_named(tokenizer):
    """320 tokens and two new ones, of which the template writes one; a model with rows to spare is fine."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
    first, second = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    refuse_unknown_tokens(tokenizer, LlamaConfig(vocab_size=second + 1), "model")
    refuse_unknown_tokens(tokenizer, LlamaConfig(vocab_size=second + 100), "model")
    expected = (
        rf"model: found a tokenizer of {second + 1} tokens and a model of {first} embeddings "
        rf"\(ids {first}, {second} have none; the chat template writes {first}\)"
    )
    with pytest.raises(Refusal, match=expected):
        refuse_unknown_tokens(tokenizer, LlamaConfig(vocab_size=first), "model")
