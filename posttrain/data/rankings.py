"""Shapes of rows with several answers and a score or rank for each: which pairs are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

from posttrain.data.dialects import listed
from posttrain.data.messages import WrongType, kind, written_json
from posttrain.data.pairs import instructed, pair, score
from posttrain.data.shapes import Build, Record, Shape
from schemas.reading import Reading

# How data sets name the score of an answer, by preference, and the answer itself.
MARKS: Final = ("overall_score", "score", "rating", "fine-grained_score", "pm_score")
ANSWERS: Final = ("response", "answer", "text", "content", "output", "completion")
SKIPPED: Final = "{count} prompts have answers between the best and the worst, which are in no pair (ranking: adjacent uses them)"


@dataclass(frozen=True)
class Marked:
    """An answer with the mark that ranks it, and the mean of its marks by aspect where there are some."""

    mark: float
    said: object
    fine: float | None = None


def ranked(prompt: object, answers: list[Marked], ranking: str) -> list[Record]:
    """The pairs of answers with their marks, of which a higher one is better; equal marks are left to the contract.

    Args:
        prompt: what was asked.
        answers: two or more.
        ranking: `best_worst` or `adjacent`, which pairs each with the next one that has a lower mark.
    """
    best, worst = max(answers, key=lambda each: each.mark), min(answers, key=lambda each: each.mark)
    if ranking == "adjacent" and best.mark > worst.mark:
        first = {each.mark: each for each in reversed(answers)}  # of equal marks the first stands for all
        chosen = list(pairwise(first[mark] for mark in sorted(first, reverse=True)))
    else:
        chosen = [(best, worst)]
    note = {"note": SKIPPED} if ranking == "best_worst" and len(answers) > 2 else {}
    return [pair(prompt, good.said, bad.said) | _scored(good, bad) | note for good, bad in chosen]


def _scored(good: Marked, bad: Marked) -> Record:
    fine = {} if good.fine is None or bad.fine is None else {"fine_chosen": good.fine, "fine_rejected": bad.fine}
    return {"score_chosen": good.mark, "score_rejected": bad.mark, **fine}


def _listed(prompt: str, answers: str) -> Build:
    """A list of objects, each with an answer and its score or rank; a rank of 1 is the best."""

    def build(row: dict[str, Any], reading: Reading) -> list[Record]:
        given = _list_of(row[answers])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise WrongType(f"`{answers}` is {kind(given)}, not a list of objects with `response` and a score")
        marked = [Marked(mark, _answer(each), _fine(each)) for each in given if (mark := _mark(each)) is not None]
        if len(marked) < 2:
            raise WrongType(f"`{answers}` has {len(marked)} answers with a score, not two or more")
        asked = instructed(row) if prompt == "instruction" else row[prompt]
        return ranked(asked, marked, reading.ranking)

    return build


def _list_of(value: object) -> object:
    """A list of objects, as JSON or by columns too."""
    value = written_json(value)
    return listed(value) if isinstance(value, Mapping) else value


def _mark(each: dict[str, Any]) -> float | None:
    rank = score(each, "rank")
    return -rank if rank is not None else score(each, *MARKS)


def _fine(each: dict[str, Any]) -> float | None:
    """The mean of an answer's marks by aspect, as UltraFeedback has them: `annotations: {helpfulness: {Rating: "4"}, …}`."""
    aspects = each.get("annotations")
    found = [_rating(aspect) for aspect in aspects.values()] if isinstance(aspects, Mapping) else []
    known = [mark for mark in found if mark is not None]
    return sum(known) / len(known) if known else None


def _rating(aspect: object) -> float | None:
    """Some say N/A."""
    given = aspect.get("Rating") if isinstance(aspect, Mapping) else None
    try:
        mark = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else math.nan
    except ValueError:
        return None
    return mark if math.isfinite(mark) else None


def _answer(each: dict[str, Any]) -> object:
    return next((each[name] for name in ANSWERS if each.get(name) is not None), None)


def _columns(answers: str, marks: str, sign: int) -> Build:
    """Answers in one list and their scores, or their ranks (`sign` -1), in another."""

    def build(row: dict[str, Any], reading: Reading) -> list[Record]:
        texts, numbers = written_json(row[answers]), written_json(row[marks])
        if not isinstance(texts, list) or not isinstance(numbers, list) or len(texts) != len(numbers) or len(texts) < 2:
            raise WrongType(f"`{answers}` and `{marks}` are not two lists of one length, of two or more")
        marked = [(score({marks: number}, marks), text) for number, text in zip(numbers, texts, strict=True)]
        if any(mark is None for mark, _ in marked):
            raise WrongType(f"`{marks}` has an answer without a number")
        return ranked(row["prompt"], [Marked(sign * cast(float, mark), text) for mark, text in marked], reading.ranking)

    return build


def _help_steer(row: dict[str, Any], reading: Reading) -> list[Record]:
    """Rows of one prompt, one after the other, each with a response and its marks: `helpfulness` decides."""
    marked = [
        Marked(mark, each["response"], _mean(each, "correctness", "coherence"))
        for each in row["rows"]
        if (mark := score(each, "helpfulness")) is not None
    ]
    if len(marked) < 2:
        raise WrongType("the prompt has one response with a mark, and a pair needs two", "unpaired")
    return ranked(row["prompt"], marked, reading.ranking)


def _mean(row: dict[str, Any], *names: str) -> float | None:
    found = [mark for name in names if (mark := score(row, name)) is not None]
    return sum(found) / len(found) if found else None


LISTS: Final = ("responses", "answers", "completions", "candidates")
_LISTS: Final = "|".join(LISTS)
_OTHER_MARKS: Final = ("correctness", "coherence", "complexity", "verbosity")
_OBJECTS: Final = (
    Shape("HelpSteer and HelpSteer2", ("prompt", "response", "helpfulness"), _help_steer, _OTHER_MARKS,
          "prompt; pairs of the responses of neighbouring rows with one prompt, by helpfulness", "prompt"),
    Shape("UltraFeedback", ("instruction", "completions"), _listed("instruction", "completions"), ("input", "models"),
          "instruction; pairs of the completions by score"),
    Shape("ranking", ("prompt|question", "answers|completions|responses"), _listed("prompt", "answers"), (),
          "prompt; pairs of the answers, which are objects, by rank (Nectar) or score"),
)  # fmt: skip
# Before the rest, whose `responses` are objects.
RANKINGS: Final = (
    Shape("ranking, scores apart", ("prompt|question|instruction", _LISTS, "scores|rewards|ratings"),
          _columns("responses", "scores", 1), (), "prompt; pairs of the responses by their scores"),
    Shape("ranking, ranks apart", ("prompt|question|instruction", _LISTS, "ranks|ranking"),
          _columns("responses", "ranks", -1), (), "prompt; pairs of the responses by their ranks, 1 the best"),
    *_OBJECTS,
)  # fmt: skip


def are_marked(row: Mapping[str, Any], shape: Shape) -> bool:
    """Whether a row has the columns of a ranking, with lists of answers and marks in them."""
    found = shape.found(row)
    if found is None or shape.gathers is not None:
        return found is not None
    lists = [value for name in found.values() if isinstance(value := _list_of(row[name]), list)]
    if shape not in _OBJECTS:
        return len(lists) > 1
    objects = [each for answers in lists for each in answers if isinstance(each, dict)]
    return any(each.get(name) is not None for each in objects for name in ("rank", *MARKS))
