"""Tokens that end an answer: the tokenizer's EOS, and what its chat template writes after a turn of the assistant."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from posttrain.data.rendering import rendered

ANSWER = "answer"  # a word that no template changes or trims


def set_end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the model's generation config, which is saved with it, stop at every token that ends an answer, and name the padding.

    What the checkpoint's own config stopped at stays: a model that was trained elsewhere to end with it still does.
    """
    habits = model.generation_config
    own = habits.eos_token_id if isinstance(habits.eos_token_id, list) else [habits.eos_token_id]
    ends = list(dict.fromkeys(token for token in (*end_tokens(tokenizer), *own) if token is not None))
    habits.eos_token_id = ends[0] if len(ends) == 1 else ends
    habits.pad_token_id = tokenizer.pad_token_id if habits.pad_token_id is None else habits.pad_token_id


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """EOS first, then the special token that stands right after an assistant's answer in the chat template, if it is another.

    `<|eot_id|>` of Llama 3 or `<end_of_turn>` of Gemma, say, where EOS ends a text.
    """
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": ANSWER}]
    after = rendered(tokenizer, chat).rpartition(ANSWER)[2]
    ids: list[int] = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    eos: Any = tokenizer.eos_token_id
    return [eos, *(token for token in ids[:1] if token in special and token != eos)]
