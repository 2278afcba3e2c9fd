"""Turns every common shape of a conversation into one: messages before the answer, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from posttrain.data.answers import several_answers, undecided
from posttrain.data.messages import Message, WrongType, as_prompt, extra_of, headed, messages, text
from posttrain.data.pairs import answer, instructed
from posttrain.data.shapes import Build, Elsewhere, Record, Shape
from posttrain.data.usual import usual_answer, usual_conversation
from posttrain.data.usual_columns import conversation
from schemas.messages import MESSAGES
from schemas.reading import Reading

COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "source": pl.String,
    "row": pl.Int64,
    "split": pl.String,
    "extra": pl.String,
}
NO_OUTPUT: Final = frozenset({"<nooutput>", "nooutput"})  # Alpaca's words for an answer that is missing


def split_off_answer(conversation: list[Message]) -> Record:
    """The last turn that is trained on, and what stands before it; turns of weight 0 after it are left out.

    Raises:
        WrongType: when every answer has weight 0.
    """
    end = len(conversation)
    while end and (conversation[end - 1]["role"] != "assistant" or extra_of(conversation[end - 1]).get("weight") == 0):
        end -= 1
    if not end and any(message["role"] == "assistant" for message in conversation):
        raise WrongType("every answer has weight 0", "nothing_to_train")
    weighted = conversation[-1:] and extra_of(conversation[-1]).get("weight") == 0
    whole = conversation[:end] if weighted else conversation
    return {"prompt": whole[:-1], "completion": whole[-1:]}


def _whole(column: str) -> Build:
    return lambda row, reading: split_off_answer(messages(row[column], "user", column))


def _answered(prompt: str, completion: str) -> Build:
    def build(row: dict[str, Any], reading: Reading) -> Record:
        asked = as_prompt(instructed(row, "input", "context") if prompt == "instruction" else row[prompt], prompt)
        said = row[completion]
        blank = isinstance(said, str) and said.strip().lower() in NO_OUTPUT
        found = [] if blank else answer(said, asked, completion)
        return split_off_answer([*asked, *found]) if found else {"prompt": asked, "completion": []}

    return build


def _headed(row: dict[str, Any], reading: Reading) -> Record:
    return split_off_answer(headed(text(row["text"], "text") or "", "text"))


def _shape(name: str, prompt: str, completion: str, *also: str) -> Shape:
    given, known = " and ".join((prompt, *also)), completion.split("|")[0]
    plain = {"prompt": ("user", prompt), "completion": ("assistant", known)}
    usual = None if prompt == "instruction" else usual_answer(prompt, known)
    return Shape(name, (prompt, completion), _answered(prompt, known), also, f"{given}; the answer", plain=plain, usual=usual)


_ALL: Final = "all turns but the last answer; the last answer"
SHAPES: tuple[Shape, ...] = (
    Shape("messages", ("messages",), _whole("messages"), (), f"{_ALL}; messages, or their JSON as text",
          usual=usual_conversation("messages"), columnar=conversation("messages")),
    Shape("ShareGPT", ("conversations|conversation",), _whole("conversations"), (), f"{_ALL}; of `from` and `value` too",
          usual=usual_conversation("conversations"), columnar=conversation("conversations")),
    _shape("prompt, completion", "prompt", "completion|response|answer|output"),
    _shape("Alpaca", "instruction", "output|response|completion|answer", "input", "context"),
    _shape("Orca; question, answer", "question", "response|answer|output"),
    _shape("ms-swift", "query", "response"),
    _shape("input, output", "input", "output|response|completion|target"),
    Shape("text with headings", ("text",), _headed, (), "the turns of `### Human:`, `### Assistant:` (Guanaco)"),
)  # fmt: skip


def hint(row: Mapping[str, Any]) -> Elsewhere | None:
    """Where rows with these columns belong, if not here."""
    if shapes := several_answers(row):
        return Elsewhere("these rows have several answers to a prompt: name the file in data.preferences", shapes, True)
    said = undecided(row)
    return Elsewhere(said) if said else None
