"""Turns every common shape of a preference pair into one: a shared prompt, the chosen and the rejected answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import polars as pl

from posttrain.data.comparisons import COMPARISONS
from posttrain.data.feedback import is_labelled
from posttrain.data.pairs import PAIRS
from posttrain.data.rankings import RANKINGS
from posttrain.data.shapes import Shape
from schemas.messages import MESSAGES

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "source": pl.String,
    "row": pl.Int64,
    "score_chosen": pl.Float64,
    "score_rejected": pl.Float64,
    "fine_chosen": pl.Float64,
    "fine_rejected": pl.Float64,
    "split": pl.String,
    "extra": pl.String,
}
ONE_ANSWER: Final = (("messages",), ("conversations",), ("prompt", "completion"), ("prompt", "response"), ("text",),
                     ("instruction", "output"), ("input", "output"), ("question", "answer"))  # fmt: skip
# Before the rest: shapes with `chosen` and `rejected` say themselves which answer is better.
SHAPES: tuple[Shape, ...] = (*PAIRS, *COMPARISONS, *RANKINGS)


def hint(columns: Collection[str]) -> str | None:
    """Where rows with these columns belong, if not here."""
    if not any(set(columns) >= set(needs) for needs in ONE_ANSWER):
        return None
    if is_labelled(columns):
        return "these rows have one answer each and its label: name the file in data.feedback, which loss kto trains on"
    return "these rows have one answer each, and pairs need two: name the file in data.instructions"
