"""Prompt and response as a pair of texts: the same ids as the tokenizer's own pairs, with the response apart."""

from __future__ import annotations

import polars as pl
import pytest
from tokenizers.processors import TemplateProcessing

from posttrain.data.encode_pairs import Joints, encode_pairs, encode_text_pairs, prompt_text
from posttrain.rewards.encoder import joining_pairs


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def pairing(tokenizer):
    """EOS (token 0) before, between and after two texts."""
    return joining_pairs(tokenizer)


def table(chosen: str = "The hotel was clean.", rejected: str = "No.", prompt: str = "Write a review.") -> pl.DataFrame:
    return pl.DataFrame({"prompt": [user(prompt)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]})


def test_the_ids_are_those_of_the_tokenizers_own_pair(pairing):
    (example,) = encode_pairs(table(), pairing, 256, "quarantine").examples
    for branch, text in zip(example.branches, ("The hotel was clean.", "No."), strict=True):
        assert [*example.prompt, *branch] == pairing("Write a review.", text)["input_ids"]
    assert example.prompt[0] == example.prompt[-1] == example.branches[0][-1] == 0


def test_joints_are_seen_from_what_a_tokenizer_does(pairing, tokenizer):
    """RoBERTa puts two separators between the texts."""
    assert Joints.of(pairing) == Joints([0], [0], [0])
    special = [("<|endoftext|>", 0), ("<|pad|>", 1)]
    roberta = TemplateProcessing(
        pair="<|pad|> $A <|endoftext|> <|endoftext|> $B <|endoftext|>", single="$A", special_tokens=special
    )
    tokenizer.backend_tokenizer.post_processor = roberta
    assert Joints.of(tokenizer) == Joints([1], [0, 0], [0])


def test_a_long_prompt_is_cut_from_the_left_between_its_special_tokens(pairing):
    whole = encode_pairs(table(), pairing, 256, "quarantine").examples[0]
    longest = max(map(len, whole.branches))
    (cut,) = encode_pairs(table(), pairing, longest + 5, "quarantine").examples
    assert cut.prompt.tolist() == [0, *whole.prompt[-4:].tolist()]
    assert cut.branches[0].tolist() == whole.branches[0].tolist()


def test_a_response_that_does_not_fit_is_left_out_or_cut(pairing):
    rows = table(chosen="The hotel was clean and the staff was kind. " * 5)
    left = encode_pairs(rows, pairing, 24, "quarantine")
    assert (len(left.examples), len(left.left_out)) == (0, 1)
    assert "does not fit max_length 24" in left.left_out[0][1]
    (cut,) = encode_pairs(rows, pairing, 24, "truncate").examples
    assert len(cut.prompt) + max(map(len, cut.branches)) == 24


def test_every_response_is_scored_an_empty_one_too(pairing):
    empty, long = encode_text_pairs(["Write a review."] * 2, ["", "clean " * 40], pairing, 20)
    assert empty.branches[0].tolist() == [0]
    assert len(long.prompt) + len(long.branches[0]) == 20


def test_a_longer_conversation_is_read_with_its_roles():
    assert prompt_text(user("Hello!")) == "Hello!"
    said = [*user("Hello!"), *assistant("Hi."), *user("Bye.")]
    assert prompt_text(said) == "User:\nHello!\n\nAssistant:\nHi.\n\nUser:\nBye."
