"""Turns every common shape of a conversation into one: messages before the answer, and the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
import polars as pl

from posttrain.data.readers import BadRow, OnBad, Row
from schemas.errors import Refusal, closest
from schemas.messages import MESSAGES

Message = dict[str, str]
TRANSCRIPT: Final = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TRANSCRIPT_ROLES: Final = {"Human": "user", "Assistant": "assistant"}
COLUMNS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "prompt": MESSAGES,
    "completion": MESSAGES,
    "source": pl.String,
    "row": pl.Int64,
    "split": pl.String,
}


class WrongType(ValueError):
    """A value of a row that cannot be read as what its column should hold."""


@dataclass(frozen=True)
class Shape:
    """A layout of rows: the columns it needs, and how to build the normal form from them."""

    needs: tuple[str, ...]
    build: Callable[[dict[str, Any]], dict[str, Any]]


def messages(value: object, role: str, field: str) -> list[Message]:
    """Messages from text (one message by `role`, or an HH transcript), a list of messages, or None (no messages).

    System messages without content are left out: several data sets write one into every row.

    Raises:
        WrongType: for anything else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return transcript(value) if TRANSCRIPT.match(value) else [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise WrongType(f"`{field}` is {kind(value)}, not text or a list of messages")
    found = [_message(item, f"{field}[{at}]") for at, item in enumerate(value)]
    return [message for message in found if message["role"] != "system" or message["content"].strip()]


def _message(value: object, field: str) -> Message:
    if not isinstance(value, dict):
        raise WrongType(f"`{field}` is {kind(value)}, not a message with `role` and `content`")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str):
        raise WrongType(f"`{field}.role` is {kind(role)}, not text")
    if not isinstance(content, str | None):
        raise WrongType(f"`{field}.content` is {kind(content)}, not text")
    return {"role": role, "content": content or ""}


def transcript(text: str) -> list[Message]:
    r"""The messages of an HH transcript: turns open with ``\n\nHuman:`` or ``\n\nAssistant:`` and are stripped of white space."""
    parts = TRANSCRIPT.split(text)[1:]
    return [
        {"role": TRANSCRIPT_ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def as_prompt(value: object, field: str = "prompt") -> list[Message]:
    """The messages of a prompt; a transcript that ends in an open ``Assistant:`` turn loses it."""
    found = messages(value, "user", field)
    opened = isinstance(value, str) and found[-1:] == [{"role": "assistant", "content": ""}]
    return found[:-1] if opened else found


def text(value: object, field: str) -> str | None:
    """Text or None.

    Raises:
        WrongType: for anything else.
    """
    if value is None or isinstance(value, str):
        return value
    raise WrongType(f"`{field}` is {kind(value)}, not text")


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _last_turn(conversation: list[Message]) -> dict[str, Any]:
    return {"prompt": conversation[:-1], "completion": conversation[-1:]}


def _answered(completion: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def build(row: dict[str, Any]) -> dict[str, Any]:
        answer = messages(row[completion], "assistant", completion)
        prompt = as_prompt(row["prompt"])
        return _last_turn([*prompt, *answer]) if answer else {"prompt": prompt, "completion": []}

    return build


def _alpaca(row: dict[str, Any]) -> dict[str, Any]:
    parts = [text(row[name], name) for name in ("instruction", "input") if row.get(name)]
    question = [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]
    return {"prompt": question, "completion": messages(row["output"], "assistant", "output")}


SHAPES: Final = (
    Shape(("messages",), lambda row: _last_turn(messages(row["messages"], "user", "messages"))),
    Shape(("prompt", "completion"), _answered("completion")),
    Shape(("prompt", "response"), _answered("response")),
    Shape(("instruction", "output"), _alpaca),
)


def normalise(rows: Iterable[Row], file: str, on_bad: OnBad) -> Iterator[dict[str, Any]]:
    """Rows of one file → records with `prompt`, `completion` (the last turn), `source`, `row`, and `split` as declared or None.

    Raises:
        Refusal: when no row of the file has the columns of a known shape.
    """
    return normalise_shapes(rows, file, SHAPES, on_bad)


def normalise_shapes(rows: Iterable[Row], file: str, shapes: tuple[Shape, ...], on_bad: OnBad) -> Iterator[dict[str, Any]]:
    """Build each row by the first shape whose columns it has; rows without one, or with a wrong type, go to `on_bad`.

    Raises:
        Refusal: when there were rows and none had the columns of a shape.
    """
    columns: dict[str, None] = {}  # a set that keeps the order of the file
    matched = False
    for number, row in rows:
        shape = next((shape for shape in shapes if row.keys() >= set(shape.needs)), None)
        if shape is None:
            columns |= dict.fromkeys(row)
            on_bad(BadRow(file, number, f"missing_columns: found {', '.join(row) or 'none'}", _json(row)))
            continue
        matched = True
        try:
            split = text(row.get("split"), "split")
            yield shape.build(row) | {"source": file, "row": number, "split": split}
        except WrongType as error:
            on_bad(BadRow(file, number, f"wrong_type: {error}", _json(row)))
    if columns and not matched:
        raise Refusal(
            where=file, found=f"columns {', '.join(columns)}", allowed=_layouts(shapes), remedy=_rename(columns, shapes)
        )


def _layouts(shapes: tuple[Shape, ...]) -> str:
    return "; or ".join(" + ".join(shape.needs) for shape in shapes)


def _rename(columns: Iterable[str], shapes: tuple[Shape, ...]) -> str:
    """Renames that complete the shape with the most columns already there."""
    present = list(columns)
    shape = max(shapes, key=lambda shape: sum(bool(closest(need, present)) for need in shape.needs) / len(shape.needs))
    renames = {need: near for need in shape.needs if need not in present and (near := closest(need, present))}
    steps = [f"rename `{near}` to `{need}`" for need, near in renames.items()]
    missing = [f"`{need}`" for need in shape.needs if need not in present and need not in renames]
    return ", ".join(steps + ([f"add {', '.join(missing)}"] if missing else []))


def _json(row: dict[str, Any]) -> str:
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        return "a value that is nested too deeply to be shown"
