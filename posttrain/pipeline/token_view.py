"""How many tokens the rows of a data set have under a model's tokenizer, and how many are above a limit."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_tokenizer
from posttrain.data.encode import accepted, encode_conversations, encode_prompts
from posttrain.data.left_out import reasons_of
from posttrain.models.policy import source_policy
from schemas.model import HubModel, LocalModel

MEASURED: Final = 2000  # rows, at even distances
NO_LIMIT: Final = 1 << 24


def tokenizer_of(model: str, field: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or of a hub id, with its chat template.

    Raises:
        Refusal: when it cannot be read; `field` is where it was named.
    """
    local = os.path.isdir(model)
    named = LocalModel(source="local", path=model) if local else HubModel(source="hub", name=model)
    return load_tokenizer(source_policy(named, field))


def token_view(rows: pl.LazyFrame, tokenizer: PreTrainedTokenizerBase, limit: int, field: str) -> dict[str, Any]:
    """Tokens of prompt and longest answer: their mean, quantiles, histogram and the share above a limit.

    Args:
        rows: clean rows with `prompt`, and answers but of prompts alone.
        tokenizer: with its chat template.
        limit: tokens.
        field: of the data, for messages.

    Returns:
        JSON-ready; `measured` of `rows` rows stand for all.
    """
    total = int(rows.select(pl.len()).collect().item())
    some = rows.gather_every(max(1, -(-total // MEASURED))).collect()
    lengths, left_out = _lengths(some, tokenizer, field)
    most = int(lengths.max(initial=0))
    edges = [0, *(2**power for power in range(4, max(most.bit_length(), 4) + 1))]
    quantiles = {f"p{at}": round(float(np.percentile(lengths, at)), 1) if len(lengths) else None for at in (50, 95)}
    return {
        "rows": total,
        "measured": some.height,
        "limit": limit,
        "over_limit_share": float((lengths > limit).mean()) if len(lengths) else 0.0,
        "mean": round(float(lengths.mean()), 1) if len(lengths) else None,
        **quantiles,
        "max": most,
        "refused": left_out,
        "histogram": {"edges": edges, "tokens": np.histogram(lengths, edges)[0].tolist()},
    }


def _lengths(some: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, field: str) -> tuple[np.ndarray[Any, Any], dict[str, int]]:
    """Tokens of each row that the template takes, and the others by reason."""
    if not {"chosen", "completion"} & set(some.columns):
        taken = accepted(tokenizer, some)
        prompts = encode_prompts(taken["prompt"].to_list(), tokenizer, False, NO_LIMIT)
        refused = some.height - taken.height
        return np.array([len(each) for each in prompts], np.int64), {"refused by the chat template": refused} if refused else {}
    parts = [name for name in ("prompt", "completion", "chosen", "rejected") if name in some.columns]
    encoded = encode_conversations(some.select(parts), tokenizer, NO_LIMIT, field)
    lengths = [len(each.prompt) + max(map(len, each.branches)) for each in encoded.examples]
    return np.array(lengths, np.int64), reasons_of(encoded.left_out)
