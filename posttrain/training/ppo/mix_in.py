"""The data's own answers beside the policy's: scored as one more branch of each prompt, and trained on by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import encode_response
from posttrain.data.packing import Tokens
from posttrain.models.positions import UNLIMITED
from posttrain.scoring.scorer import TokenScores
from posttrain.training.ppo.experience import Experience
from schemas.errors import Refusal

ANSWERS = ("chosen", "completion")  # columns of pairs and of conversations


def given_answers(rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, longest: int) -> list[Tokens]:
    """The answer of each row in tokens, EOS included where at most `longest` are enough.

    Raises:
        Refusal: when the rows hold prompts alone, or answers of several messages.
    """
    column = next((name for name in ANSWERS if name in rows.columns), None)
    if column is None:
        raise Refusal(
            where="alignment.sft_weight",
            found="a weight for the data's own answers, and rows of prompts alone",
            allowed="rows with an answer: preferences or instructions",
            remedy="remove sft_weight, or give data.preferences",
        )
    if (rows[column].list.len() > 1).any():
        raise Refusal(
            where="alignment.sft_weight",
            found="a weight for the data's own answers, some of which are several messages",
            allowed="answers of one message",
            remedy="remove sft_weight, or give rows of single answers",
        )
    pairs = zip(rows["prompt"].to_list(), rows[column].to_list(), strict=True)
    encoded = [encode_response(prompt, answer[-1]["content"], tokenizer, UNLIMITED) for prompt, answer in pairs]
    return [example.branches[0][:longest] for example in encoded]


def split(scores: TokenScores, experience: Experience, rows: Sequence[int]) -> tuple[TokenScores, Tensor | None]:
    """Scores of the responses of some examples, and log-probabilities [M] of the data's own answers, where there are some."""
    if not experience.given:
        return scores, None
    lengths = [length for row in rows for length in (experience.scored.examples[row].targets, len(experience.given[row]))]
    of_data = torch.tensor([False, True]).repeat(len(rows)).repeat_interleave(torch.tensor(lengths)).to(scores.logprobs.device)
    own = {name: each[~of_data] for name in ("branch", "entropy", "values") if (each := getattr(scores, name)) is not None}
    return replace(scores, logprobs=scores.logprobs[~of_data], **own), scores.logprobs[of_data]
