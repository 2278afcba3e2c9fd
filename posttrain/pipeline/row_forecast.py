"""How many rows encoding will leave out, by stage: found on the rows that the contract kept, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_tokenizer
from posttrain.data.choose import representative
from posttrain.data.encode import encode_conversations
from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.pipeline.chain import Chain
from posttrain.statistics.intervals import share_interval
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.training import DPO

SAMPLED = 1000  # rows of a table that are encoded; of more rows the share is estimated
NEW_TOKENIZER = 2.0  # times the limit: lengths under a tokenizer that was not trained yet are rough


@dataclass(frozen=True)
class _Reading:
    """How a stage reads a table."""

    table: str
    section: str
    spec: Any


def forecast_left_out(chain: Chain, tables: Mapping[str, pl.DataFrame], note: Callable[[str], None]) -> dict[str, float]:
    """Training rows that each stage will leave out, as `<stage>_left_out`; `note` is told where there are any.

    Of a reward model with a tokenizer of its own nothing is said.

    Args:
        chain: of the recipe.
        tables: clean rows by data set, with their split.
        note: takes a sentence.

    Raises:
        Refusal: when more rows than `data.checks.max_drop_rate` allows will be left out for sure.
    """
    readings = {stage: each for stage, each in _readings(chain).items() if each.table in tables}
    tokenizer = _tokenizer(chain) if readings else None
    found = {}
    for stage, reading in readings.items():
        assert tokenizer is not None
        rows = tables[reading.table].filter(split="train")
        found[f"{stage}_left_out"] = float(_left_out(chain, reading, rows, tokenizer, note))
    return found


def _readings(chain: Chain) -> dict[str, _Reading]:
    recipe = chain.recipe
    found = {"sft": _Reading("instructions", "sft", recipe.sft)} if recipe.sft else {}
    if recipe.reward and recipe.reward.model is None:
        found["reward"] = _Reading("preferences", "reward", recipe.reward)
    if isinstance(recipe.alignment, DPO):
        found["align"] = _Reading("preferences", "alignment", recipe.alignment)
    return found


def _tokenizer(chain: Chain) -> PreTrainedTokenizerBase:
    """The model's; in the place of one that pretraining will train, one of the first rows."""
    from posttrain.pipeline.lengths import first_rows

    return first_rows(chain).tokenizer if isinstance(chain.model, ScratchModel) else load_tokenizer(chain.source)


def _left_out(
    chain: Chain, reading: _Reading, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, note: Callable[[str], None]
) -> int:
    """Of all training rows, estimated where there are many."""
    field, spec, checks = f"data.{reading.table}", reading.spec, chain.recipe.data.checks
    few, rough = representative(rows, SAMPLED), isinstance(chain.model, ScratchModel)
    try:
        encoded = encode_conversations(few, tokenizer, spec.max_length, field, spec.overlong, _encoder_decoder(chain))
    except Refusal:  # of the template: `template_check` says what is wrong with it
        return 0
    reasons = reasons_of(encoded.left_out)
    if not reasons:
        return 0
    exact = len(few) == len(rows) and not rough
    least = share_interval([1.0] * len(encoded.left_out) + [0.0] * len(encoded.examples)).low
    if exact or least > checks.max_drop_rate * (NEW_TOKENIZER if rough else 1):
        refuse_left_out(reasons, len(few), field, reading.section, checks, "" if exact else ", by a sample of them")
    count = round(len(encoded.left_out) / len(few) * len(rows))
    said = f"{'' if exact else 'about '}{count:,} of {len(rows):,} training rows"
    note(f"{field}: {said} will be left out by {reading.section} ({'; '.join(reasons)})")
    return count


def _encoder_decoder(chain: Chain) -> bool:
    model = chain.model
    return model.architecture == "t5" if isinstance(model, ScratchModel) else bool(load_config(chain.source).is_encoder_decoder)
