"""Turns every common shape of a preference pair into one: a shared prompt, the chosen and the rejected answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from posttrain.data import conversations, feedback
from posttrain.data.comparisons import COMPARISONS
from posttrain.data.pairs import PAIRS, SOLUTIONS
from posttrain.data.rankings import RANKINGS
from posttrain.data.shapes import Elsewhere, Shape
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
# Before the rest: shapes with `chosen` and `rejected` say themselves which answer is better. UltraFeedback has lists of right and
# wrong answers beside its scored completions, for those who scored them.
SHAPES: tuple[Shape, ...] = (*PAIRS, *COMPARISONS, *RANKINGS[:-1], SOLUTIONS, RANKINGS[-1])


def hint(row: Mapping[str, Any]) -> Elsewhere | None:
    """Where rows with these columns belong, if not here."""
    if shapes := _found(feedback.SHAPES, row):
        said = "these rows have one answer each and its label: name the file in data.feedback, which loss kto trains on"
        return Elsewhere(said, shapes)
    if shapes := _found(conversations.SHAPES, row):
        said = "these rows have one answer each, and pairs need two: name the file in data.instructions"
        return Elsewhere(said, shapes)
    return None


def _found(shapes: tuple[Shape, ...], row: Mapping[str, Any]) -> tuple[Shape, ...]:
    return tuple(shape for shape in shapes if shape.found(row))
