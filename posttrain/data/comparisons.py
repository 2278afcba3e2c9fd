"""Shapes of rows with two answers and a verdict: which column says which of them is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from posttrain.data.messages import WrongType, kind, messages, written_json
from posttrain.data.pairs import instructed, pair, score
from posttrain.data.shapes import Build, Record, Shape
from schemas.reading import Reading

ARENA: Final = {
    "model_a": 1.0, "model_b": -1.0, "tie": 0.0, "tie (bothbad)": 0.0, "both_bad": 0.0, "a": 1.0, "b": -1.0, "response_a": 1.0,
    "response_b": -1.0,
}  # fmt: skip

LONGEST_SHOWN: Final = 40  # characters of a verdict that is none


def compared(prompt: object, first: object, second: object, lead: float, marks: tuple[float, float] | None = None) -> Record:
    """The pair of two answers of which the first is better where `lead` is above 0; at 0 both have the same score.

    Args:
        prompt: what was asked.
        first: an answer.
        second: the other.
        lead: by how much the first is better.
        marks: scores of both that the data set gives; by default the lead.
    """
    made = pair(prompt, *((first, second) if lead >= 0 else (second, first)))
    high, low = (abs(lead), 0.0) if marks is None else marks if lead >= 0 else marks[::-1]
    return made | {"score_chosen": high, "score_rejected": low}


def _number(row: dict[str, Any], name: str, low: float, high: float) -> float:
    value = score(row, name)
    if value is None or not low <= value <= high:
        raise WrongType(f"`{name}` is {_shown(row[name])}, not a number from {low:g} to {high:g}")
    return value


def _yes(row: dict[str, Any], name: str) -> bool:
    """Of a verdict by number: 1, not 0; what lies between is neither."""
    value = score(row, name)
    if value not in (0, 1):
        raise WrongType(f"`{name}` is {_shown(row[name])}, not 0 or 1")
    return value == 1


def _shown(value: object) -> str:
    return repr(value)[:LONGEST_SHOWN] if isinstance(value, str | int | float) else kind(value)


def _alpaca_eval(row: dict[str, Any], reading: Reading) -> Record:
    """`preference` runs from 1 (the first output is better) to 2; it becomes the two scores, so that 1.5 is a tie."""
    preference = _number(row, "preference", 1, 2)
    first, second = 2 - preference, preference - 1
    return compared(instructed(row), row["output_1"], row["output_2"], first - second, (first, second))


def _chosen_by_number(verdict: str) -> Build:
    """`verdict` is 0 or 1, the number of the better response."""

    def build(row: dict[str, Any], reading: Reading) -> Record:
        made = compared(row["prompt"], row["response_0"], row["response_1"], -1 if _yes(row, verdict) else 1)
        return made | {"score_chosen": None, "score_rejected": None}

    return build


def _human_refs(row: dict[str, Any], reading: Reading) -> Record:
    """SHP: `labels` is 1 where answer A had more votes; a row whose votes say otherwise is found by its scores."""
    lead = 1 if _yes(row, "labels") else -1
    votes = score(row, "score_A"), score(row, "score_B")
    made = compared(row["history"], row["human_ref_A"], row["human_ref_B"], lead)
    chosen, rejected = votes if lead > 0 else votes[::-1]
    return made | {"score_chosen": chosen, "score_rejected": rejected}


def _strength(prompt: str, first: str, second: str, verdict: str) -> Build:
    """HelpSteer: below 0 the first is better, above it the second, by one to three steps."""

    def build(row: dict[str, Any], reading: Reading) -> Record:
        return compared(row[prompt], row[first], row[second], -_number(row, verdict, -3, 3))

    return build


def _arena(row: dict[str, Any], reading: Reading) -> Record:
    """Two conversations and a winner."""
    a, b = (messages(row[name], "user", name) for name in ("conversation_a", "conversation_b"))
    return compared(None, a, b, _winner(row["winner"]))


def _winner(value: object) -> float:
    lead = ARENA.get(value.strip().lower()) if isinstance(value, str) else None
    if lead is None:
        raise WrongType(f"`winner` is {_shown(value)}, not one of {', '.join(ARENA)}")
    return lead


def _answered(first: str, second: str) -> Build:
    def build(row: dict[str, Any], reading: Reading) -> Record:
        return compared(row["prompt"], row[first], row[second], _winner(row["winner"]))

    return build


def _winner_columns(row: dict[str, Any], reading: Reading) -> Record:
    """Arena's competition: turns as lists of texts, and a column of 0 and 1 for each verdict."""
    lead = _yes(row, "winner_model_a") - _yes(row, "winner_model_b")
    prompts, first, second = (_texts(row[name], name) for name in ("prompt", "response_a", "response_b"))
    if not len(prompts) == len(first) == len(second):
        raise WrongType("`prompt`, `response_a` and `response_b` have different numbers of turns")
    return compared(None, _turns(prompts, first), _turns(prompts, second), lead)


def _texts(value: object, field: str) -> list[str | None]:
    listed = written_json(value)
    texts: list[Any] = listed if isinstance(listed, list) else [listed]
    if not all(isinstance(each, str | None) for each in texts):
        raise WrongType(f"`{field}` is no list of texts")
    return texts


def _turns(prompts: list[str | None], answers: list[str | None]) -> list[dict[str, Any]]:
    said = [each for both in zip(prompts, answers, strict=True) for each in zip(("user", "assistant"), both, strict=True)]
    return [{"role": role, "content": content} for role, content in said]


def _web_gpt(row: dict[str, Any], reading: Reading) -> Record:
    """WebGPT comparisons: the question is in an object, scores run from -1 to 1."""
    asked = row["question"]
    marks = _number(row, "score_0", -1, 1), _number(row, "score_1", -1, 1)
    asked = asked.get("full_text") if isinstance(asked, Mapping) else asked
    return compared(asked, row["answer_0"], row["answer_1"], marks[0] - marks[1], marks)


_BELOW: Final = "where the number is below 0, the other above; the other"
_BY_ID: Final = ("prompt", "response_0", "response_1")
COMPARISONS: Final = (
    Shape("AlpacaEval", ("instruction", "output_1", "output_2", "preference"), _alpaca_eval, ("input",),
          "instruction; the output that `preference` (1 to 2) is nearer to; the other"),
    Shape("PKU-SafeRLHF", (*_BY_ID, "better_response_id"), _chosen_by_number("better_response_id"), (),
          "prompt; the response of that number; the other. `columns: {better_response_id: safer_response_id}` goes by safety"),
    Shape("PKU-SafeRLHF, safety alone", (*_BY_ID, "safer_response_id"), _chosen_by_number("safer_response_id"), (),
          "prompt; the response of that number; the other"),
    Shape("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), _human_refs, ("score_A", "score_B"),
          "history; A where labels is 1, else B; the other"),
    Shape("HelpSteer3", ("context", "response1", "response2", "overall_preference"),
          _strength("context", "response1", "response2", "overall_preference"), (), f"context; response1 {_BELOW}"),
    Shape("HelpSteer2 preference", ("prompt", "response_1", "response_2", "preference_strength"),
          _strength("prompt", "response_1", "response_2", "preference_strength"), (), f"prompt; response_1 {_BELOW}"),
    Shape("LMSYS arena", ("conversation_a", "conversation_b", "winner"), _arena, (),
          "the turns that both share; the winner's rest; the other's"),
    Shape("LMSYS arena, columns", ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"), _winner_columns,
          ("winner_tie",), "the turns before the last answer; the winner's; the other's"),
    Shape("two answers and a winner", ("prompt", "response_a", "response_b", "winner"), _answered("response_a", "response_b"), (),
          "prompt; the winner's response; the other's"),
    Shape("WebGPT", ("question", "answer_0", "answer_1", "score_0", "score_1"), _web_gpt, (),
          "question; the answer with the higher score; the other"),
)  # fmt: skip
