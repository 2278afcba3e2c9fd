"""Usual rows of messages and of transcripts, without the detours that odd ones need: what they become is what `build` makes.

Each function answers None for a row that is not plainly what it should be; it goes the long way (`file_rows.py`).
"""

from __future__ import annotations

import re
from typing import Any, Final

from posttrain.data.messages import CALLING, LATER_TURN, NORMAL, ROLES, TRANSCRIPT_ROLES, Message
from posttrain.data.shapes import Record, Usual

# Text that may be more than one message: a transcript, messages as JSON, Alpaca's words for no answer.
MAY_BE_MORE: Final = r"(?i)\A(?:[\s\[{#]|human:|assistant:|<?nooutput)"
MORE: Final = re.compile(MAY_BE_MORE)
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def usual_messages(value: Any) -> list[Message] | None:
    """The messages of a list in which each has a role and text and nothing else; the list itself where it is in normal form."""
    if type(value) is not list or not value:
        return None
    for message in value:
        if type(message) is not dict or len(message) != 2 or "role" not in message or "content" not in message:
            return _renamed(value)
        role, content = message["role"], message["content"]
        if type(role) is not str or role not in NORMAL or type(content) is not str:
            return _renamed(value)
        if role == "system" and not content.strip():
            return None
    return value


def _renamed(value: list[Any]) -> list[Message] | None:
    """The same for other names of roles, for `from` and `value`, and for fields without a value, as tables have them."""
    found: list[Message] = []
    for message in value:
        held = {name: said for name, said in message.items() if said is not None} if type(message) is dict else {}
        role, said = held.get("role", held.get("from")), held.get("content", held.get("value"))
        if len(held) != 2 or type(role) is not str or type(said) is not str:
            return None
        known = ROLES.get(role.lower())
        if known is None or role.lower() in CALLING or (known == "system" and not said.strip()):
            return None
        found.append({"role": known, "content": said})
    return found


def _said(value: Any, role: str) -> list[Message] | None:
    """Messages, or the one of a text that cannot be more than one."""
    if type(value) is str:
        return [{"role": role, "content": value}] if value and not MORE.match(value) else None
    return usual_messages(value)


def usual_pair(prompt: str) -> Usual:
    """Of rows with `chosen` and `rejected`; `prompt` is the column of the prompt, empty where the sides carry it."""

    def usual(row: dict[str, Any]) -> Record | None:
        chosen, rejected = row["chosen"], row["rejected"]
        if type(chosen) is str or type(rejected) is str:  # texts with a prompt of their own are `plain`
            return None if prompt else _transcripts(chosen, rejected)
        good, bad = usual_messages(chosen), usual_messages(rejected)
        if good is None or bad is None:
            return None
        asked = _said(row[prompt], "user") if prompt else []
        if asked is None:
            return None
        if good[0]["role"] == bad[0]["role"] == "assistant":
            return _record(asked, good, bad) if asked and len(good) == len(bad) == 1 else None
        own = not prompt or type(row[prompt]) is str or good[: len(asked)] == asked == bad[: len(asked)]
        return _carrying(good, bad) if own else None

    return usual


def _carrying(good: list[Message], bad: list[Message]) -> Record | None:
    """Sides that differ in their last message alone, and have one before it."""
    last = len(good) - 1
    if not last or len(bad) != len(good) or good[:last] != bad[:last]:
        return None
    return _record(good[:last], good[last:], bad[last:])


def _record(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Record:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _transcripts(chosen: Any, rejected: Any) -> Record | None:
    """HH: two dialogues that differ in what the assistant says last."""
    if type(chosen) is not str or type(rejected) is not str or not chosen.startswith(HUMAN):
        return None
    cut = chosen.rfind(ASSISTANT)
    if cut != rejected.rfind(ASSISTANT) or chosen.rfind(HUMAN) > cut or rejected.rfind(HUMAN) > cut:
        return None
    asked = chosen[:cut]
    if not rejected.startswith(asked) or "\r" in chosen or "\r" in rejected:
        return None
    answers = cut + len(ASSISTANT)
    if asked.rfind("\n\n") == 0:  # one turn
        prompt = [{"role": "user", "content": asked[len(HUMAN) :].strip()}]
    else:
        turns = LATER_TURN.split(asked)
        prompt = [{"role": TRANSCRIPT_ROLES[turns[at]], "content": turns[at + 1].strip()} for at in range(1, len(turns), 2)]
    good = {"role": "assistant", "content": chosen[answers:].strip()}
    return _record(prompt, [good], [{"role": "assistant", "content": rejected[answers:].strip()}])


def usual_share_gpt(row: dict[str, Any]) -> Record | None:
    """A conversation, and two sides of one answer each; some repeat the chosen one at the end of the conversation."""
    talk = usual_messages(row["conversations"])
    good, bad = (usual_messages(side if type(side) is list else [side]) for side in (row["chosen"], row["rejected"]))
    if talk is None or good is None or bad is None:
        return None
    asked = talk[:-1] if talk[-1]["role"] == "assistant" else talk
    alone = len(good) == len(bad) == 1 and good[0]["role"] == bad[0]["role"] == "assistant"
    return _record(asked, good, bad) if asked and alone else None


def usual_conversation(column: str) -> Usual:
    """Of rows whose whole conversation stands in one column."""

    def usual(row: dict[str, Any]) -> Record | None:
        talk = usual_messages(row[column])
        return None if talk is None else {"prompt": talk[:-1], "completion": talk[-1:]}

    return usual


def usual_answer(prompt: str, completion: str) -> Usual:
    """Of rows with a prompt and an answer, each of text or of messages."""

    def usual(row: dict[str, Any]) -> Record | None:
        asked, said = _said(row[prompt], "user"), _said(row[completion], "assistant")
        if asked is None or said is None:
            return None
        talk = [*asked, *said]
        return {"prompt": talk[:-1], "completion": talk[-1:]}

    return usual


def usual_prompt(column: str) -> Usual:
    """Of rows with a prompt alone that does not end with an answer."""

    def usual(row: dict[str, Any]) -> Record | None:
        asked = _said(row[column], "user")
        return None if asked is None or asked[-1]["role"] == "assistant" else {"prompt": asked}

    return usual
