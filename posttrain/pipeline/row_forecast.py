"""How many rows encoding will leave out, by stage: found on the rows that the contract kept, before anything is trained."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_tokenizer
from posttrain.data.choose import representative
from posttrain.data.encode import accepts, encode_conversations
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.feedback import unpaired
from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.models.blocks import architecture
from posttrain.peft.methods import ENCODER
from posttrain.pipeline.chain import Chain
from posttrain.pipeline.reward_check import reward_config
from posttrain.rewards.encoder import joining_pairs, pair_tokenizer
from posttrain.statistics.intervals import share_interval
from posttrain.training.rows import TEMPLATE, TEMPLATE_REMEDY
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.ppo import PPO
from schemas.reward import RewardTraining, ScratchEncoder
from schemas.training import DPO

SAMPLED = 1000  # rows of a table that are encoded; of more rows the share is estimated
NEW_TOKENIZER = 2.0  # times the limit: lengths under a tokenizer that was not trained yet are rough

LeftOut = Sequence[tuple[int, str]]
"""Rows by number, each with the reason."""
Tokenizer = Callable[[], PreTrainedTokenizerBase]
"""Loads it, or trains one, when it is first asked for."""


@dataclass(frozen=True)
class _Reading:
    """How a stage reads a table."""

    table: str
    section: str
    left_out: Callable[[pl.DataFrame], LeftOut]
    rough: bool = False
    """Whether the tokenizer is another than the run will have."""
    remedy: str = ""
    """What to do, unless rows are too long."""


def forecast_left_out(chain: Chain, tables: Mapping[str, pl.DataFrame], note: Callable[[str], None]) -> dict[str, float]:
    """Training rows that each stage will leave out, as `<stage>_left_out`; `note` is told where there are any.

    Args:
        chain: of the recipe.
        tables: clean rows by data set, with their split.
        note: takes a sentence.

    Raises:
        Refusal: when more rows than `data.checks.max_drop_rate` allows will be left out for sure.
    """
    return {
        f"{stage}_left_out": float(_count(chain, reading, _training_rows(chain, stage, tables[reading.table]), note))
        for stage, reading in _readings(chain)
        if reading.table in tables
    }


def _training_rows(chain: Chain, stage: str, table: pl.DataFrame) -> pl.DataFrame:
    rows = table.filter(split="train")
    return unpaired(rows) if stage == "align" and chain.recipe.unpaired else rows


def _readings(chain: Chain) -> Iterator[tuple[str, _Reading]]:
    recipe, rough = chain.recipe, isinstance(chain.model, ScratchModel)
    tokenizer = functools.cache(functools.partial(_tokenizer, chain))
    if recipe.sft:
        read = functools.partial(_of_chats, chain, "sft", recipe.sft, tokenizer)
        yield "sft", _Reading("instructions", "sft", read, rough)
    if recipe.reward:
        read = functools.partial(_of_reward, chain, recipe.reward, tokenizer)
        own = recipe.reward.model is not None and not isinstance(recipe.reward.model, ScratchEncoder)
        yield "reward", _Reading("preferences", "reward", read, rough and not own)
    if isinstance(recipe.alignment, DPO):
        read = functools.partial(_of_chats, chain, "align", recipe.alignment, tokenizer)
        yield "align", _Reading(str(recipe.dataset("align")), "alignment", read, rough)
    if isinstance(recipe.alignment, PPO):
        read = functools.partial(_refused_prompts, tokenizer)
        yield "align", _Reading(recipe.prompts_table, "alignment", read, remedy=TEMPLATE_REMEDY)


def _tokenizer(chain: Chain) -> PreTrainedTokenizerBase:
    """The model's; in the place of one that pretraining will train, one of the first rows."""
    from posttrain.pipeline.lengths import first_rows

    return first_rows(chain).tokenizer if isinstance(chain.model, ScratchModel) else load_tokenizer(chain.source)


def _of_chats(chain: Chain, stage: str, spec: Any, tokenizer: Tokenizer, rows: pl.DataFrame) -> LeftOut:
    field = f"data.{chain.recipe.dataset(stage)}"
    two_parts = stage != "reward" and _encoder_decoder(chain)
    return encode_conversations(rows, tokenizer(), spec.max_length, field, spec.overlong, two_parts).left_out


def _of_reward(chain: Chain, spec: RewardTraining, tokenizer: Tokenizer, rows: pl.DataFrame) -> LeftOut:
    """As the reward stage reads pairs: an encoder as two texts, a model of its own with a tokenizer of its own."""
    if isinstance(spec.model, ScratchEncoder):
        joining = joining_pairs(copy.deepcopy(tokenizer()))
        return encode_pairs(rows, joining, spec.max_length, spec.overlong).left_out
    if architecture(reward_config(chain)) == ENCODER:
        return encode_pairs(rows, pair_tokenizer(chain.reward_start()), spec.max_length, spec.overlong).left_out
    own = tokenizer if spec.model is None else functools.partial(load_tokenizer, chain.reward_start())
    return _of_chats(chain, "reward", spec, own, rows)


def _refused_prompts(tokenizer: Tokenizer, rows: pl.DataFrame) -> LeftOut:
    """PPO cuts long prompts and trains on none: those are left out that the chat template refuses."""
    prompts = rows["prompt"].to_list()
    return [(row, TEMPLATE) for row, prompt in enumerate(prompts) if not accepts(tokenizer(), prompt)]


def _count(chain: Chain, reading: _Reading, rows: pl.DataFrame, note: Callable[[str], None]) -> int:
    """Of all training rows, estimated where there are many."""
    field, checks = f"data.{reading.table}", chain.recipe.data.checks
    few = representative(rows, SAMPLED)
    try:
        left_out = reading.left_out(few)
    except Refusal:  # of the template: `template_check` says what is wrong with it
        return 0
    reasons = reasons_of(left_out)
    if not reasons:
        return 0
    exact = len(few) == len(rows) and not reading.rough
    least = share_interval([1.0] * len(left_out) + [0.0] * (len(few) - len(left_out))).low
    if exact or least > checks.max_drop_rate * (NEW_TOKENIZER if reading.rough else 1):
        predicted = "" if exact else ", by a sample of them"
        refuse_left_out(reasons, len(few), field, reading.section, checks, predicted, reading.remedy)
    count = round(len(left_out) / len(few) * len(rows))
    said = f"{'' if exact else 'about '}{count:,} of {len(rows):,} training rows"
    note(f"{field}: {said} will be left out by {reading.section} ({'; '.join(reasons)})")
    return count


def _encoder_decoder(chain: Chain) -> bool:
    model = chain.model
    return model.architecture == "t5" if isinstance(model, ScratchModel) else bool(load_config(chain.source).is_encoder_decoder)
