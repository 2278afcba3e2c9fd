"""Turns every common shape of a preference pair into one: a shared prompt, the chosen and the rejected answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, Final

import polars as pl

from posttrain.data.conversations import Message, Shape, WrongType, as_prompt, kind, messages, normalise_shapes
from posttrain.data.readers import OnBad, Row
from schemas.messages import MESSAGES

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "source": pl.String,
    "row": pl.Int64,
    "score_chosen": pl.Float64,
    "score_rejected": pl.Float64,
    "split": pl.String,
}
# How data sets name the score of an answer in a list of `completions`, by preference.
COMPLETION_SCORES: Final = ("overall_score", "score", "rating", "fine-grained_score")


def pair(prompt: object, chosen: object, rejected: object) -> dict[str, list[Message]]:
    """The normal form of one pair.

    The longest common prefix of *messages* moves to the prompt; characters never do, so that two answers which start alike stay
    whole. What is left of a side is one message where both sides answer the same prompt; more means that their prompts differ.

    Raises:
        WrongType: when a value is neither text nor messages.
    """
    asked = as_prompt(prompt)
    sides = messages(chosen, "assistant", "chosen"), messages(rejected, "assistant", "rejected")
    carried = any(side and side[0]["role"] != "assistant" for side in sides)  # a side repeats its own prompt
    if carried and (isinstance(prompt, str) or all(side[: len(asked)] == asked for side in sides)):
        asked = []
    shared = _shared(*sides)
    return {"prompt": asked + sides[0][:shared], "chosen": sides[0][shared:], "rejected": sides[1][shared:]}


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """Length of the common prefix that leaves each side its last message."""
    before = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], before))


def score(row: dict[str, Any], *names: str) -> float | None:
    """The first of the named columns that is neither null nor NaN.

    Raises:
        WrongType: when it is not a finite number.
    """
    for name in names:
        value = row.get(name)
        if value is None or value != value:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
            raise WrongType(f"`{name}` is {kind(value)}, not a finite number")
        return float(value)
    return None


def _paired(row: dict[str, Any]) -> dict[str, Any]:
    return pair(row.get("prompt"), row["chosen"], row["rejected"]) | {
        "score_chosen": score(row, "score_chosen", "chosen_score"),
        "score_rejected": score(row, "score_rejected", "rejected_score"),
    }


def _ranked(row: dict[str, Any]) -> dict[str, Any]:
    """UltraFeedback: the best against the worst of the scored `completions`; equal scores are left to the contract."""
    completions = row["completions"]
    if not isinstance(completions, list) or not all(isinstance(each, dict) for each in completions):
        raise WrongType(f"`completions` is {kind(completions)}, not a list of objects with `response` and a score")
    scored = [(mark, each.get("response")) for each in completions if (mark := score(each, *COMPLETION_SCORES)) is not None]
    if len(scored) < 2:
        raise WrongType(f"`completions` has {len(scored)} answers with a score, not two or more")
    best, worst = max(scored, key=lambda each: each[0]), min(scored, key=lambda each: each[0])
    return pair(row["instruction"], best[1], worst[1]) | {"score_chosen": best[0], "score_rejected": worst[0]}


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    """AlpacaEval: `preference` runs from 1 (the first output is better) to 2; it becomes the two scores, so that 1.5 is a tie."""
    preference = score(row, "preference")
    if preference is None or not 1 <= preference <= 2:
        raise WrongType(f"`preference` is {row['preference']}, not a number from 1 to 2")
    scores = 2 - preference, preference - 1
    chosen, rejected = (1, 2) if preference <= 1.5 else (2, 1)
    return pair(row["instruction"], row[f"output_{chosen}"], row[f"output_{rejected}"]) | {
        "score_chosen": max(scores),
        "score_rejected": min(scores),
    }


SHAPES: Final = (
    Shape(("chosen", "rejected"), _paired),
    Shape(("instruction", "completions"), _ranked),
    Shape(("instruction", "output_1", "output_2", "preference"), _compared),
)


def normalise(rows: Iterable[Row], file: str, on_bad: OnBad) -> Iterator[dict[str, Any]]:
    """Rows of one file → records with the columns of `COLUMNS`; `split` is as declared, or None.

    Raises:
        Refusal: when no row of the file has the columns of a known shape.
    """
    return normalise_shapes(rows, file, SHAPES, on_bad)
