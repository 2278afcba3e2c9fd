"""From documents to examples for pretraining: EOS at the end, and pieces that fit the context."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from posttrain.data.packing import Example
from posttrain.data.tokenizer import added_tokens, writes_bos


def encode_documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, context: int, encoder_decoder: bool = False, first: bool = False
) -> list[Example]:
    """Documents, each ended by EOS, in examples of at most `context` tokens; an empty document gives none.

    A document starts with BOS where a chat does; special tokens spelled out in it are plain text. Decoders get pieces that
    overlap by one token, so that each token but the first is a target once; with `first` that one as well, after EOS where the
    tokenizer writes no BOS. Encoder-decoders get prefix language modelling (T5,
    arXiv 1910.10683 section 3.2): the encoder reads the first half of a piece, the decoder continues with the second.
    """
    if not texts:
        return []
    cut = _halves if encoder_decoder else functools.partial(_overlapping, first=first)
    documents = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [example for ids in documents if ids for example in cut([*ids, tokenizer.eos_token_id], tokenizer, context)]


def _overlapping(ids: list[int], tokenizer: PreTrainedTokenizerBase, context: int, first: bool) -> list[Example]:
    bos = [tokenizer.bos_token_id] if writes_bos(tokenizer) else [tokenizer.eos_token_id] if first else []
    tokens = np.asarray([*bos, *ids], np.int32)
    pieces = [tokens[start : start + context] for start in range(0, len(tokens) - 1, context - 1)]
    return [Example(piece[:1], (piece[1:],)) for piece in pieces]


def _halves(ids: list[int], tokenizer: PreTrainedTokenizerBase, context: int) -> list[Example]:
    before, after = added_tokens(tokenizer)
    pieces = np.array_split(np.asarray(ids, np.int32), -(-len(ids) // (context - len(before) - len(after))))
    return [
        Example(np.asarray([*before, *piece[: len(piece) // 2], *after], np.int32), (piece[len(piece) // 2 :],))
        for piece in pieces
    ]
