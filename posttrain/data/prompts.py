"""Turns every common shape of a prompt without an answer into one: its messages, and all other columns for rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from posttrain.data.answers import several_answers, undecided
from posttrain.data.messages import Message, WrongType, as_prompt, headed, messages, text
from posttrain.data.pairs import instructed
from posttrain.data.shapes import Elsewhere, Record, Shape
from posttrain.data.usual import usual_prompt
from schemas.messages import MESSAGES
from schemas.reading import Reading

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "source": pl.String,
    "row": pl.Int64,
    "split": pl.String,
    "extra": pl.String,
}
ANSWERED: Final = "the answer at the end of {count} conversations is no part of their prompts: rewards see it as `completion`"


def _asked(conversation: list[Message]) -> Record:
    """A conversation up to the last turn that is not the assistant's; what follows is for rewards."""
    end = len(conversation)
    while end and conversation[end - 1]["role"] == "assistant":
        end -= 1
    if end == len(conversation):
        return {"prompt": conversation}
    return {"prompt": conversation[:end], "seen": {"completion": conversation[end:]}, "note": ANSWERED}


def _messages(row: dict[str, Any], reading: Reading) -> Record:
    return _asked(messages(row["messages"], "user", "messages"))


def _prompt(row: dict[str, Any], reading: Reading) -> Record:
    return _asked(as_prompt(row["prompt"], "prompt"))


def _graded(row: dict[str, Any], reading: Reading) -> Record:
    """verl keeps what an answer is compared with inside a column of its own."""
    grading = row["reward_model"]
    if not isinstance(grading, Mapping) or "ground_truth" not in grading:
        raise WrongType("`reward_model` has no `ground_truth`")
    known = {"reward_model": dict(grading)} | ({} if "answer" in row else {"answer": grading["ground_truth"]})
    record = _prompt(row, reading)
    return record | {"seen": {**record.get("seen", {}), **known}}


def _instructed(row: dict[str, Any], reading: Reading) -> Record:
    return _asked(as_prompt(instructed(row, "input", "context"), "instruction"))


def _headed(row: dict[str, Any], reading: Reading) -> Record:
    return _asked(headed(text(row["text"], "text") or "", "text"))


_ALL: Final = "all turns up to the last that is not the assistant's"
SHAPES: tuple[Shape, ...] = (
    Shape("verl", ("prompt", "reward_model"), _graded, (), f"{_ALL}; rewards see `ground_truth` as `answer`"),
    Shape("prompt", ("prompt|query|problem|question",), _prompt, (), f"text, or messages: {_ALL}",
          usual=usual_prompt("prompt")),
    Shape("messages", ("messages|conversations|conversation",), _messages, (), f"{_ALL}; of `from` and `value` too",
          usual=usual_prompt("messages")),
    Shape("Alpaca", ("instruction",), _instructed, ("input", "context"), "instruction and input"),
    Shape("input", ("input",), lambda row, reading: _asked(as_prompt(row["input"], "input")), (), "text, or messages"),
    Shape("text with headings", ("text",), _headed, (), "the turns of `### Human:`, `### Assistant:` (Guanaco)"),
)  # fmt: skip


def hint(row: Mapping[str, Any]) -> Elsewhere | None:
    """Where rows with these columns belong, if not here."""
    if not (shapes := several_answers(row)):
        lacking = undecided(row)
        return Elsewhere(lacking) if lacking else None
    said = "these rows have several answers to a prompt: name the file in data.preferences, whose prompts are asked where there "
    said += "is no data.prompts"
    return Elsewhere(said, shapes)
