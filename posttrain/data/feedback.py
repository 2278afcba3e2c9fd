"""Unpaired feedback: one answer a row, and whether somebody liked it; and preference pairs taken apart into the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from posttrain.data import conversations
from posttrain.data.answers import several_answers, undecided
from posttrain.data.columns import LABELS
from posttrain.data.messages import WrongType, kind
from posttrain.data.shapes import Build, Elsewhere, Record, Shape, Usual
from schemas.messages import MESSAGES
from schemas.reading import Reading

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "label": pl.Boolean,
    "source": pl.String,
    "row": pl.Int64,
    "split": pl.String,
    "extra": pl.String,
}
LABEL: Final = "|".join(LABELS)
MEANS: Final = {
    **dict.fromkeys(("true", "1", "1.0", "desirable", "chosen", "good", "yes", "up", "thumbs_up", "liked"), True),
    **dict.fromkeys(("false", "0", "0.0", "undesirable", "rejected", "bad", "no", "down", "thumbs_down", "disliked"), False),
}
"""What labels that are text or numbers say, in lower case."""


def desirable(value: object) -> bool:
    """What a label says.

    Raises:
        WrongType: when it says neither: -1 is undesirable in some data sets and nothing in others.
    """
    if isinstance(value, bool):
        return value
    if value is None or value == "" or value != value:
        raise WrongType("`label` is null: nobody said whether the answer is good", "missing_label")
    said = MEANS.get(str(value).strip().lower()) if isinstance(value, str | int | float) else None
    if said is None:
        shown = repr(value) if isinstance(value, str | int | float) else kind(value)
        raise WrongType(f"`label` is {shown[:40]}, not true or false (nor 1, 0, or words such as good and bad)", "unknown_label")
    return said


def _labelled(build: Build) -> Build:
    def labelled(row: dict[str, Any], reading: Reading) -> Record:
        made = build(row, reading)
        assert isinstance(made, dict)  # a conversation is one record
        return made | {"label": desirable(row["label"])}

    return labelled


def _usual(usual: Usual) -> Usual:
    def labelled(row: dict[str, Any]) -> Record | None:
        made = usual(row) if type(row["label"]) is bool else None
        return None if made is None else made | {"label": row["label"]}

    return labelled


SHAPES: tuple[Shape, ...] = tuple(
    Shape(
        shape.name,
        (*shape.needs, LABEL),
        _labelled(shape.build),
        shape.also,
        f"{shape.becomes}; the label",
        usual=_usual(shape.usual) if shape.usual else None,
    )
    for shape in conversations.SHAPES
)


def hint(row: Mapping[str, Any]) -> Elsewhere | None:
    """Where rows with these columns belong, if not here."""
    if shapes := several_answers(row):
        two = "these rows have several answers to a prompt: name the file in data.preferences, of which loss kto takes both sides"
        return Elsewhere(two, shapes, True)
    if said := undecided(row, labelled=True):
        return Elsewhere(said)
    if any(shape.found(row) for shape in conversations.SHAPES):
        names = LABEL.replace("|", ", ")
        return Elsewhere(f"no column says which answers are good ({names}): name it in columns, as {{label: yours}}")
    return None


def unpaired(table: pl.DataFrame) -> pl.DataFrame:
    """Rows with `prompt`, `completion` and `label`; of pairs each side is one, the chosen one first.

    Args:
        table: clean feedback, or clean pairs [P], of which there are then 2 P rows.
    """
    if "chosen" not in table.columns:
        return table
    kept = [name for name in table.columns if name not in ("chosen", "rejected", "score_chosen", "score_rejected")]
    sides = [
        table.with_row_index("at").select("at", *kept, pl.col(side).alias("completion"), pl.lit(good).alias("label"))
        for side, good in (("chosen", True), ("rejected", False))
    ]
    return pl.concat(sides).sort("at", maintain_order=True).drop("at")
