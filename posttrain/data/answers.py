"""Rows with several answers to a prompt: the shapes of preferences that they have, or what they lack to have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from posttrain.data.columns import NUMBERED
from posttrain.data.comparisons import COMPARISONS
from posttrain.data.messages import written_json
from posttrain.data.pairs import PAIRS, SOLUTIONS
from posttrain.data.rankings import ANSWERS, LISTS, RANKINGS, are_marked
from posttrain.data.shapes import Shape

VERDICTS: Final = frozenset(
    ("preference", "better_response_id", "safer_response_id", "labels", "overall_preference", "preference_strength", "winner",
     "winner_model_a", "winner_model_b", "score_0", "score_1")
)  # fmt: skip
"""Columns of comparisons that say which answer is better."""
ASKED: Final = ("prompt", "question", "instruction", "query", "input")  # a prompt that may have a `response`
PROMPTS: Final = (*ASKED, "problem", "context")


def several_answers(row: Mapping[str, Any]) -> tuple[Shape, ...]:
    """The shapes of preferences that a row with these columns has; the answers of a ranking are a list, and have marks."""
    named = (shape for shape in (*PAIRS, SOLUTIONS, *COMPARISONS) if shape.found(row))
    return (*named, *(shape for shape in RANKINGS if are_marked(row, shape)))


def undecided(row: Mapping[str, Any], labelled: bool = False) -> str | None:
    """What to do with rows that have several answers and nothing that says which is better; None for others.

    Args:
        row: the columns.
        labelled: whether an answer may be given with its label instead, and not only the one to learn from.
    """
    alone = _alone(row, "each answer, on its own, as text," if labelled else "the answer to learn from as text,")
    otherwise = f"{alone} with its `label`" if labelled else alone
    found = _verdict_of(row) or _numbered(row)
    if found is None:
        return _listed(row, otherwise)
    answers, step = found
    there = "and name the file in data.preferences"
    return f"these rows have several answers to a prompt ({answers}) and no verdict: {step}, {there}; or {otherwise}"


def _alone(row: Mapping[str, Any], answer: str) -> str:
    """How an answer is given without the others."""
    if any(name.startswith("conversation") for name in row):
        return "write the conversation to learn from as `messages`"
    asked = "" if any(name in row for name in ASKED) else "what is asked as `prompt`, and "
    return f"write {asked}{answer} as `response`"


def _verdict_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The two answers of a comparison, and what to do: to add the columns that would say which is better, the fewest."""
    found = []
    for shape in COMPARISONS:
        verdict = [need for need in shape.needs if need in VERDICTS and need not in row]
        there = [need for need in shape.needs if need not in VERDICTS]
        if verdict and all(need in row for need in there):
            found.append((_quoted(there[-2:]), f"add {_quoted(verdict)}", len(verdict)))
    best = min(found, key=lambda each: each[2], default=None)
    return best[:2] if best else None


def _numbered(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Answers that differ in the number at the ends of their names, and what to do."""
    names = [name for name in row if (end := NUMBERED.search(name)) and name[: end.start()].rstrip("_-").lower() in ANSWERS]
    return (_quoted(names), "call the better one `chosen` and the other `rejected`") if len(names) > 1 else None


def _listed(row: Mapping[str, Any], otherwise: str) -> str | None:
    """What to do with a list of answers without marks, or with answers in an object."""
    if not any(name in row for name in PROMPTS):
        return None
    held = {name: written_json(row[name]) for name in LISTS if name in row}
    name, value = next(((name, value) for name, value in held.items() if isinstance(value, list | dict) and value), ("", None))
    if isinstance(value, dict):
        return f"`{name}` is an object, and no answer: {otherwise}"
    if not isinstance(value, list):
        return None
    step = "give each a `score`" if any(isinstance(each, dict) for each in value) else "add `scores`, a number for each"
    several = f"or, of several, {step}, and name the file in data.preferences"
    return f"`{name}` is a list of answers, and nothing says which is better: {otherwise}; {several}"


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
