"""What stands beside a prompt in columns of its own: the system message, earlier turns and the tools, put where they belong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from posttrain.data.columns import EMPTY, HISTORY, SYSTEM, TOOLS
from posttrain.data.messages import Message, WrongType, as_prompt, kind, messages, text, with_extra, written_json

NO_TOOLS: Final = frozenset({"", "null", "none", "nan"})  # text in the place of an empty list


def in_context(record: dict[str, Any], row: dict[str, Any], needs: Collection[str]) -> dict[str, Any]:
    """The record with the row's system message, history and tools in its prompt; columns that the shape itself reads stay out.

    Raises:
        WrongType: when one of them cannot be read, or the row has two different system messages.
    """
    systems = [name for name in SYSTEM if name not in needs and row.get(name)]
    history, tools = (row.get(name) if name not in needs else None for (name,) in (HISTORY, TOOLS))
    history, tools = (None if value in EMPTY else value for value in (history, tools))
    if not systems and history is None and tools is None:
        return record
    prompt = list(record["prompt"])
    lead = prompt[:1] if prompt and prompt[0]["role"] == "system" else []
    said = _system(row, systems)
    if said and lead and lead[0]["content"].strip() != said:
        raise WrongType("`system` and the system message of the prompt differ")
    before = lead or ([{"role": "system", "content": said}] if said else [])
    whole = [*before, *(earlier(history) if history is not None else []), *prompt[len(lead) :]]
    return record | {"prompt": with_tools(whole, tools)}


def _system(row: dict[str, Any], names: Sequence[str]) -> str:
    """What the columns of system messages say."""
    said = {name: (text(row[name], name) or "").strip() for name in names}
    (first, one), *others = [(name, each) for name, each in said.items() if each] or [("", "")]
    if odd := next((name for name, each in others if each != one), None):
        raise WrongType(f"`{first}` and `{odd}` are two system messages that differ")
    return one


def earlier(history: object) -> list[Message]:
    """Turns before a prompt: messages, or pairs of what the user and the assistant said.

    Raises:
        WrongType: when it is neither.
    """
    value = written_json(history)
    if isinstance(value, str):
        return as_prompt(value, "history")
    if not isinstance(value, list):
        raise WrongType(f"`history` is {kind(value)}, not a list of turns")
    if all(isinstance(turn, dict) for turn in value):
        return messages(value, "user", "history")
    found: list[Message] = []
    for at, turn in enumerate(value):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(side, str) for side in turn)):
            raise WrongType(f"`history[{at}]` is {kind(turn)}, not a question with its answer")
        found += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return found


def with_tools(prompt: list[Message], tools: object) -> list[Message]:
    """The prompt whose first message carries the tools of the conversation.

    Raises:
        WrongType: when they are no list of objects.
    """
    listed = written_json(tools)
    if listed in EMPTY or not prompt or (isinstance(listed, str) and listed.strip().lower() in NO_TOOLS):
        return prompt
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise WrongType(f"`tools` is {kind(listed)}, not a list of tools")
    return [with_extra(prompt[0], {"tools": listed}), *prompt[1:]]
