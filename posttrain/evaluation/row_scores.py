"""Log-probabilities of the answers in held-out rows under a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import encode_conversations
from posttrain.data.packing import Example, prompt_groups
from posttrain.evaluation.numbers import RowScores
from posttrain.runtime.progress import Progress, counted
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.scoring.token_budget import scoring_tokens

Known = Callable[[Sequence[Example]], Tensor | None]
"""From held-out pairs to their log-probabilities [pairs, 2] as an earlier stage computed them, rows of NaN where it did not."""


def row_scores(
    scorer: Scorer, tokenizer: PreTrainedTokenizerBase, table: pl.DataFrame, limit: int, progress: Progress, what: str,
    known: Known | None = None,
) -> RowScores | None:  # fmt: skip
    """Log-probabilities of the answers in held-out rows: of each pair, or of each conversation. None where no row can be read.

    Rows of up to `limit` tokens are measured whole, whatever the limit of training; see `longest_row`.
    """
    two_parts = inner_model(scorer.model).config.is_encoder_decoder
    encoded = encode_conversations(table, tokenizer, limit, "data", encoder_decoder=two_parts)
    if not encoded.examples:
        return None
    left_out = {row for row, _ in encoded.left_out}
    scores = known(encoded.examples) if known else None
    if scores is None:
        scores = torch.full((len(encoded.examples), len(encoded.examples[0].branches)), math.nan)
    if unknown := scores.isnan().any(1).nonzero().flatten().tolist():
        new, scores = [encoded.examples[row] for row in unknown], scores.clone()
        scores[unknown] = score_branches(scorer, new, scoring_tokens(scorer.device), counted(progress, what, len(new)))
    tokens = torch.tensor([example.answer_lengths for example in encoded.examples])
    rows = [row for row in range(len(table)) if row not in left_out]
    return RowScores(rows, tokens, scores, prompt_groups(encoded.examples), encoded.prompts_cut)
