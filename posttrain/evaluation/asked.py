"""What evaluation asks: the held-out rows, and the prompts among them that every policy answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from posttrain.data.choose import row_keys, row_sources, stratified
from posttrain.rewards.rows import columns_of
from schemas.data import ASKED
from schemas.errors import Refusal
from schemas.evaluation import Evaluation

Conversations = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class HeldOut:
    """Rows that no training stage saw; None where the recipe has no such data."""

    documents: pl.DataFrame | None
    instructions: pl.DataFrame | None
    preferences: pl.DataFrame | None
    feedback: pl.DataFrame | None = None
    prompts: pl.DataFrame | None = None
    refused: int = 0
    """Held-out rows beside these, which the candidate's chat template refuses."""

    @property
    def asked(self) -> pl.DataFrame | None:
        """The rows whose prompts are answered: as `Recipe.prompts_table`."""
        return next((table for name in ASKED if (table := getattr(self, name)) is not None), None)

    @property
    def answers(self) -> pl.DataFrame | None:
        """Answers that a policy should give."""
        liked = None if self.feedback is None else self.feedback.filter("label")
        return next((table for table in (self.instructions, self.preferences, liked) if table is not None), None)


@dataclass(frozen=True)
class Asked:
    """What every policy answers, and the data's columns beside each prompt, for judges that are functions."""

    conversations: Conversations
    columns: list[dict[str, Any]]
    sources: list[str]
    """Where each prompt is from, in the order of the prompts; each is answered `evaluation.samples` times."""


def held_out_prompts(held_out: HeldOut, limit: int) -> pl.DataFrame:
    """At most `limit` distinct prompts of `HeldOut.asked`, of every source its share, in `prompt`, each with its first row.

    Raises:
        Refusal: when there is none.
    """
    table = held_out.asked
    if table is None or table.is_empty():
        raise Refusal(
            where="data.holdout",
            found="no held-out prompt",
            allowed="at least one",
            remedy="raise data.holdout, or give more rows",
        )
    keys = pl.Series([json.dumps(prompt, sort_keys=True) for prompt in table["prompt"].to_list()])
    distinct = table.filter(keys.is_first_distinct())
    return distinct[stratified(row_keys(distinct.select("prompt")), row_sources(distinct), limit)]


def asked(held_out: HeldOut, spec: Evaluation) -> Asked:
    """What every policy answers: each held-out prompt `spec.samples` times in a row."""
    table = held_out_prompts(held_out, spec.prompts)
    each = [pair for pair in zip(table["prompt"].to_list(), columns_of(table), strict=True) for _ in range(spec.samples)]
    return Asked([prompt for prompt, _ in each], [columns for _, columns in each], row_sources(table))
