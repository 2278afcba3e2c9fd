"""Perplexity of held-out text: per token, and per word and byte, which do not depend on the tokenizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.data.choose import held_out_pieces, representative
from posttrain.data.encode import encode_conversations
from posttrain.data.encode_documents import encode_documents
from posttrain.data.packing import Example
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.objectives import LanguageModelling
from posttrain.training.validation import mean_loss

EXAMPLES = 512  # held-out pieces of text that it is taken over
CONTEXT = 256  # tokens of a piece


def perplexity(
    scorer: Scorer, tokenizer: PreTrainedTokenizerBase, documents: pl.DataFrame | None, answers: pl.DataFrame | None, limit: int,
    count: Callable[[int], Callable[[int], None]],
) -> dict[str, float]:  # fmt: skip
    """`perplexity` per token, on held-out documents where there are some, else on held-out answers; empty without either.

    Of documents also `word_perplexity` and `bits_per_byte`: the same loss, with the tokens that these documents have for each
    word and byte. Every token is scored, the first one after BOS, or after EOS where the tokenizer writes no BOS, and EOS at the
    end.

    Args:
        limit: longest sequence that all policies can read, in tokens.
        count: from a number of examples to what is told how many are done.
    """
    two_parts = inner_model(scorer.model).config.is_encoder_decoder
    tokens_of: dict[str, float] = {}
    if documents is not None and len(documents):
        cut = functools.partial(
            encode_documents, tokenizer=tokenizer, context=min(CONTEXT, limit), encoder_decoder=two_parts, first=True
        )
        examples, table = held_out_pieces(documents, EXAMPLES, cut)
        tokens_of = _per_unit(table["text"].to_list(), cut(table["text"].to_list()))
    elif answers is not None:
        table = representative(answers, EXAMPLES).drop("rejected", strict=False)
        examples = encode_conversations(table, tokenizer, limit, "data", encoder_decoder=two_parts).examples
    else:
        return {}
    objective = LanguageModelling(examples)
    if not objective.examples:
        return {}
    loss = mean_loss(scorer, objective, scoring_tokens(scorer.device), count(len(objective.examples)))
    found = {"perplexity": math.exp(loss)}
    if tokens_of and not two_parts:  # an encoder reads half of each text, which then is no target
        found["word_perplexity"] = _exp(loss * tokens_of["word"])
        found["bits_per_byte"] = loss * tokens_of["byte"] / math.log(2)
    return found


def _per_unit(texts: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Targets for each word, between spaces, and for each byte of UTF-8; nothing where the texts have no word."""
    targets = sum(example.targets for example in examples)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode(errors="replace")) for text in texts)
    return {"word": targets / words, "byte": targets / size} if words else {}


def _exp(number: float) -> float:
    """The largest number where e to this power is beyond it: an untrained model spends many nats on a long word."""
    return math.exp(min(number, 700.0))
