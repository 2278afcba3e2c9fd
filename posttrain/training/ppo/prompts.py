"""Which prompts PPO answers: the distinct ones of the training rows, and some of the held-out ones."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.data.choose import representative
from posttrain.data.encode import accepted, encode_prompts
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.models.positions import UNLIMITED
from posttrain.models.rope import unscaled_up_to
from posttrain.rewards.rows import columns_of
from posttrain.training.ppo.mix_in import given_answers
from posttrain.training.ppo.rollout import Prompts
from posttrain.training.request import StageRequest
from posttrain.training.rows import record_prompts
from schemas.errors import Refusal
from schemas.ppo import PPO


def training_prompts(
    request: StageRequest, spec: PPO, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any
) -> Prompts:
    """The distinct training prompts, each with the columns of its first row, cut from the left to leave room for a response.

    Rows that the template refuses are counted.
    """
    room = spec.max_length - spec.max_new_tokens
    refuse_beyond(min(longest_sequence(config), unscaled_up_to(config) or UNLIMITED), "alignment", "max_length", spec.max_length)
    train = rows.filter(split="train")
    kept = accepted(tokenizer, train)
    record_prompts(request.out, f"data.{request.recipe.prompts_table}", len(train), len(kept), request.recipe.data.checks)
    distinct = _distinct(kept)
    if distinct.is_empty():
        raise Refusal(
            where="data.preferences",
            found="no prompt to train on",
            allowed="at least one",
            remedy="lower data.holdout, or give more rows",
        )
    conversations = distinct["prompt"].to_list()
    tokens = encode_prompts(conversations, tokenizer, config.is_encoder_decoder, room)
    given = given_answers(distinct, tokenizer, spec.max_new_tokens) if spec.sft_weight else ()
    return Prompts(conversations, tokens, columns_of(distinct), given)


def _distinct(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each prompt."""
    keys = pl.Series([json.dumps(prompt, sort_keys=True) for prompt in rows["prompt"].to_list()], dtype=pl.String)
    return rows.filter(keys.is_first_distinct())


def held_out_prompts(spec: PPO, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any) -> Prompts | None:
    """Some of the held-out prompts, of every source its share; None where there are none."""
    kept = _distinct(accepted(tokenizer, rows.filter(split="holdout")))
    chosen = representative(kept, spec.held_out_prompts)
    if chosen.is_empty():
        return None
    conversations, room = chosen["prompt"].to_list(), spec.max_length - spec.max_new_tokens
    tokens = encode_prompts(conversations, tokenizer, config.is_encoder_decoder, room)
    return Prompts(conversations, tokens, columns_of(chosen))
