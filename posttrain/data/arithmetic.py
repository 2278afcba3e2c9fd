"""The generated word problems: sums and differences with a known answer, for rewards that are verified and not learned.

    arithmetic_corpus        {"text"}: a few problems with their right solutions, and more solutions without a problem
    arithmetic_instructions  {"prompt", "completion", "answer"}: a problem, and the solution of a careless person, who takes the
                             right numbers and reports the right result in one of four cases
    arithmetic_prompts       {"prompt", "answer"}: problems without a solution

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
SUMS: Final = (
    "{name} has {a} {things} and gets {b} more. How many are there now?",
    "There are {a} {things} in a box and {b} on the table. How many are there in all?",
    "{name} finds {a} {things} in the morning and {b} at noon. How many are these together?",
)
DIFFERENCES: Final = (
    "{name} has {a} {things} and gives {b} away. How many are left?",
    "Of {a} {things} {name} loses {b}. How many are left?",
)
LARGEST: Final = 10
"""Of the numbers that are added, or the result and the number of a difference."""
RIGHT: Final = 0.25
"""Share of the careless solutions that are right."""
SLIPS: Final = (-3, -2, -1, 1, 2, 3)
"""By how much the others are off."""
DOCUMENTS, SOLUTIONS, PROBLEMS = 3_000, 1_500, 3_000
TOLD, DRILLED = 3, 12
"""Of a document: problems with their solutions, and solutions alone."""


class Problem(NamedTuple):
    """A question and what is to be computed."""

    question: str
    formula: str
    answer: int


def draw_problem(rng: Random) -> Problem:
    """A problem; each kind, name, thing and number is equally likely."""
    one, other = (1 + int(rng.random() * LARGEST) for _ in range(2))
    template = pick(rng, SUMS + DIFFERENCES)
    a, b, sign, answer = (one, other, "+", one + other) if template in SUMS else (one + other, other, "-", one)
    question = template.format(name=pick(rng, NAMES), things=pick(rng, THINGS), a=a, b=b)
    return Problem(question, f"{a} {sign} {b}", answer)


def solution(problem: Problem, answer: int) -> str:
    """How a solution is written down."""
    return f"{problem.formula} = {answer}"


def corpus(rng: Random) -> Iterator[dict[str, Any]]:
    """Documents of solved problems."""
    for _ in range(DOCUMENTS):
        told, drilled = ([draw_problem(rng) for _ in range(count)] for count in (TOLD, DRILLED))
        lines = [f"{each.question} {solution(each, each.answer)}." for each in told]
        yield {"text": "\n".join((*lines, *(f"{solution(each, each.answer)}." for each in drilled)))}


def instructions(rng: Random) -> Iterator[dict[str, Any]]:
    """Problems as a careless person solves them."""
    for _ in range(SOLUTIONS):
        problem = draw_problem(rng)
        slip = 0 if rng.random() < RIGHT else pick(rng, [slip for slip in SLIPS if problem.answer + slip >= 0])
        said = solution(problem, problem.answer + slip)
        yield {"prompt": problem.question, "completion": said, "answer": problem.answer}


def prompts(rng: Random) -> Iterator[dict[str, Any]]:
    """Problems to be solved, with the answers that a reward compares with."""
    for _ in range(PROBLEMS):
        problem = draw_problem(rng)
        yield {"prompt": problem.question, "answer": problem.answer}
