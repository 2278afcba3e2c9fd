"""The generated word problems: sums and differences with a known answer, for rewards that are verified and not learned.

    arithmetic_corpus        {"text"}: conversations, each a problem and its right answer, written by the default chat template
    arithmetic_instructions  {"prompt", "completion", "answer"}: a problem, and the answer of a careless person: in one of four
                             cases the right one
    arithmetic_prompts       {"prompt", "answer"}: problems to be solved

A policy that imitates the instructions is right as often as they are; what it read before knows better, and a reward can bring
that out. The bytes are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Final, NamedTuple

from posttrain.data.reviews import pick

NAMES: Final = ("Ada", "Ben", "Carl", "Dora", "Emil", "Fay", "Greta", "Hugo", "Ida", "Jan", "Kira", "Leo", "Mona", "Nils",
                "Olga", "Paul")  # fmt: skip
THINGS: Final = ("apples", "books", "coins", "eggs", "keys", "marbles", "nuts", "pens", "shells", "stamps", "stones", "tickets")
QUESTION: Final = "{name}: {formula} {things}?"
LARGEST: Final = 9
"""Of the numbers that are added, or the result and the number of a difference."""
RIGHT: Final = 0.25
"""Share of the careless answers that are right."""
SLIPS: Final = (-3, -2, -1, 1, 2, 3)
"""By how much the others are off."""
DOCUMENTS, ANSWERED, PROBLEMS = 6_000, 1_500, 3_000
TOLD = 7
"""Problems of a document."""


class Problem(NamedTuple):
    """A question and its answer."""

    question: str
    answer: int


def draw_problem(rng: Random) -> Problem:
    """A problem; each name, thing, sign and number is equally likely."""
    one, other = (1 + int(rng.random() * LARGEST) for _ in range(2))
    formula, answer = pick(rng, ((f"{one} + {other}", one + other), (f"{one + other} - {other}", one)))
    question = QUESTION.format(name=pick(rng, NAMES), things=pick(rng, THINGS), formula=formula)
    return Problem(question, answer)


def corpus(rng: Random) -> Iterator[dict[str, Any]]:
    """Documents of solved problems."""
    for _ in range(DOCUMENTS):
        told = [draw_problem(rng) for _ in range(TOLD)]
        yield {"text": "\n\n".join(f"User:\n{each.question}\n\nAssistant:\n{each.answer}" for each in told)}


def instructions(rng: Random) -> Iterator[dict[str, Any]]:
    """Problems as a careless person solves them."""
    for _ in range(ANSWERED):
        problem = draw_problem(rng)
        slip = 0 if rng.random() < RIGHT else pick(rng, [slip for slip in SLIPS if problem.answer + slip >= 0])
        yield {"prompt": problem.question, "completion": str(problem.answer + slip), "answer": problem.answer}


def prompts(rng: Random) -> Iterator[dict[str, Any]]:
    """Problems to be solved, with the answers that a reward compares with."""
    for _ in range(PROBLEMS):
        problem = draw_problem(rng)
        yield {"prompt": problem.question, "answer": problem.answer}
