"""Answers of several messages, such as calls of tools with what they gave: the assistant's tokens alone are trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from posttrain.data.rendering import rendered
from posttrain.data.turns import Conversation, Span, common_prefix, spans_of, trained_turns

Mask = NDArray[np.bool_]
OTHERWISE = "the chat template writes an earlier message of an answer otherwise once the conversation goes on"


def side_masks(
    table: pl.DataFrame, columns: list[str], tokenizer: PreTrainedTokenizerBase, tokenised: Mapping[int, list[list[int]]]
) -> dict[int, list[Mask] | str]:
    """For rows with an answer of several messages which tokens of each whole conversation are the assistant's; or why the row
    cannot be trained on.

    Args:
        table: clean rows with `prompt` and the columns.
        columns: of the answers.
        tokenizer: with its chat template.
        tokenised: by row the token ids of the prompt and of the prompt with each answer; rows that are not in it are left out.
    """
    several = pl.any_horizontal(pl.lit(False), *(pl.col(name).list.len() > 1 for name in columns))
    rows = table.with_row_index("at").filter(several).select("at", "prompt", *columns)
    found: dict[int, list[Mask] | str] = {}
    for at, prompt, *answers in rows.iter_rows():
        if at in tokenised:
            masks = [_mask(tokenizer, prompt, answer, ids) for answer, ids in zip(answers, tokenised[at][1:], strict=True)]
            kept = [mask for mask in masks if mask is not None]
            found[at] = kept if len(kept) == len(masks) else OTHERWISE
    return found


def _mask(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, answer: Conversation, whole: list[int]) -> Mask | None:
    """Shape (tokens of the whole,), of which the prompt's say nothing; None where an earlier message cannot be found in it."""
    if len(answer) == 1:
        return np.ones(len(whole), np.bool_)
    before = [*prompt, *answer[:-1]]
    spans = spans_of(tokenizer, {0: (before, answer[-1:])}, {0: whole}).get(0, [])
    own = [span for at, span in zip(trained_turns(before), spans, strict=True) if at >= len(prompt)]
    ids: list[int] = tokenizer(rendered(tokenizer, before, generation_prompt=True), add_special_tokens=False)["input_ids"]
    last: Span = common_prefix(ids, whole), len(whole)
    if None in own or last[0] < len(ids):
        return None
    mask = np.zeros(len(whole), np.bool_)
    for start, end in (*(span for span in own if span), last):
        mask[start:end] = True
    return mask


def of_branches(masks: list[Mask], boundary: int, branches: list[list[int]]) -> list[Mask]:
    """The masks of the branches that begin at the boundary; an EOS that was put behind a branch is trained on too."""
    return [
        np.r_[mask[boundary:], np.ones(max(0, len(branch) - len(mask) + boundary), np.bool_)][: len(branch)]
        for mask, branch in zip(masks, branches, strict=True)
    ]
