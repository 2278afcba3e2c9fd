"""Documents to tokens: pieces, BOS and EOS, and halves for encoder-decoders."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from posttrain.data.encode_documents import encode_documents
from posttrain.data.tokenizer import prepare_tokenizer

EOS = 0


@pytest.mark.parametrize("context", [8, 9, 64])
def test_every_token_of_a_document_is_a_target_exactly_once(tokenizer, context):
    """All but the first, which nothing predicts; pieces hold at most `context` tokens and carry on where the last one ended."""
    texts = ["The hotel was clean and the staff was kind. " * 4, "Hello", "", "1, 2, 3." * 9]
    examples = encode_documents(texts, tokenizer, context)
    expected = []
    for text in texts:
        expected += [*tokenizer(text)["input_ids"], EOS][1:]
    assert [int(token) for example in examples for token in example.branches[0]] == expected
    assert Counter(expected)[EOS] == 3  # the empty document has nothing to predict its EOS from
    assert all(1 < example.length <= context for example in examples)
    assert all(len(example.prompt) == 1 for example in examples)


def test_pieces_of_a_document_overlap_by_one_token(tokenizer):
    examples = encode_documents(["The hotel was clean and the staff was kind."], tokenizer, 8)
    assert len(examples) > 1
    for before, after in pairwise(examples):
        assert after.prompt[0] == before.branches[0][-1]


def test_a_document_that_fills_the_context_leaves_no_empty_piece(tokenizer):
    """15 tokens with EOS in pieces of 8 that overlap by one: 8 + 8 - 1 = 15, so two pieces and not three."""
    text = tokenizer.decode(list(range(70, 84)))
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 14
    assert [example.length for example in encode_documents([text], tokenizer, 8)] == [8, 8]


def test_no_documents_give_no_examples(tokenizer):
    assert encode_documents([], tokenizer, 8) == []
    assert encode_documents([""], tokenizer, 8) == []


def test_a_document_starts_with_bos_where_a_chat_does(with_bos):
    """One BOS, in the first piece alone; an empty document is still none."""
    tokenizer = prepare_tokenizer(with_bos)
    examples = encode_documents(["The hotel was clean and the staff was kind.", ""], tokenizer, 8)
    tokens = [int(token) for example in examples for token in (*example.prompt, *example.branches[0])]
    assert examples[0].prompt.tolist() == [tokenizer.bos_token_id]
    assert tokens.count(tokenizer.bos_token_id) == 1
    assert tokens[-1] == EOS


def test_special_tokens_spelled_out_in_a_document_are_text(tokenizer):
    """A page about tokenizers does not end in its middle, and nothing trains the padding token."""
    (example,) = encode_documents(["a <|endoftext|> b <|pad|> c"], tokenizer, 64)
    tokens = [*example.prompt.tolist(), *example.branches[0].tolist()]
    assert tokens.count(EOS) == 1
    assert tokenizer.pad_token_id not in tokens
    assert tokenizer.decode(tokens) == "a <|endoftext|> b <|pad|> c<|endoftext|>"


@pytest.mark.parametrize("context", [8, 9, 64])
def test_an_encoder_decoder_continues_documents(t5_tokenizer, context):
    """Halves of pieces of at most `context` tokens, in order; the encoder's ends with EOS, the decoder's where the text does."""
    texts = ["abcdefghijklmnopqrstuvwxyz", "a", ""]
    examples = encode_documents(texts, t5_tokenizer, context, encoder_decoder=True)
    assert all(example.length <= context for example in examples)
    assert all(example.prompt[-1] == 1 and len(example.prompt) >= 2 for example in examples)
    assert all(0 <= len(e.branches[0]) - (len(e.prompt) - 1) <= 1 for e in examples)
    joined = [int(token) for e in examples for token in (*e.prompt[:-1], *e.branches[0])]
    assert joined == [token for text in texts[:2] for token in t5_tokenizer(text)["input_ids"]]
