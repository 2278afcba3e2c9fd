"""One BOS at the start of a prompt, by every way in which rows become tokens."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.data.encode import Encoded, encode_conversations, encode_prompts
from posttrain.data.tokenizer import prepare_tokenizer

LINES = (
    "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def instructions(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame({"prompt": [user(p) for p, _ in rows], "completion": [assistant(c) for _, c in rows]})


def encode(table: pl.DataFrame, tokenizer, max_length: int = 200) -> Encoded:
    return encode_conversations(table, tokenizer, max_length, "data.preferences")


@pytest.mark.parametrize("template", [None, LINES])
def test_a_prompt_has_one_bos_at_its_start_and_none_elsewhere(with_bos, template):
    """The tokenizer adds BOS to every text by itself, and here the template, too, is about to write it."""
    with_bos.chat_template = template
    tokenizer, bos = prepare_tokenizer(with_bos), with_bos.bos_token_id
    table = pl.DataFrame({"prompt": [user("Hi") + assistant("Hello") + user("Bye")], "completion": [assistant("Goodbye")]})
    (example,) = encode(table, tokenizer).examples
    assert example.prompt[0] == bos
    assert [*example.prompt[1:], *example.branches[0]].count(bos) == 0
    assert encode_prompts(table["prompt"].to_list(), tokenizer)[0].tolist() == example.prompt.tolist()


@pytest.mark.parametrize(("room", "kept"), [(2, 1), (5, 4)])
def test_a_cut_prompt_keeps_its_bos(with_bos, room, kept):
    """Of `room` tokens BOS is the first, and the others are the last of the prompt."""
    table = instructions(("Write a review.", "It was clean."))
    tokenizer = prepare_tokenizer(with_bos)
    (whole,) = encode(table, tokenizer).examples
    (cut,) = encode(table, tokenizer, max_length=whole.targets + room).examples
    assert cut.prompt.tolist() == [tokenizer.bos_token_id, *whole.prompt[-kept:].tolist()]
    (alone,) = encode_prompts(table["prompt"].to_list(), tokenizer, room=room)
    assert alone.tolist() == [tokenizer.bos_token_id, *whole.prompt[1 - room :].tolist()]
    assert encode(table, tokenizer, max_length=whole.targets + 1).examples == [], "BOS alone is no prompt"


@pytest.mark.parametrize("row", [("<|bos|>Hi", "Hello"), ("Hi", " <|bos|>Hello")])
def test_a_message_that_starts_with_bos_is_left_out_with_its_reason(with_bos, row):
    """The template writes BOS: rows that were rendered elsewhere would have two."""
    tokenizer = prepare_tokenizer(with_bos)
    encoded = encode(instructions(("Hi", "Hello"), row), tokenizer)
    assert encoded.left_out == [(1, "a message starts with <|bos|>, which the chat template writes already")]
    assert encoded.examples[0].prompt.tolist().count(tokenizer.bos_token_id) == 1
