"""Turns whatever a column holds of a conversation into messages: text, transcripts, lists of messages in every usual dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from posttrain.data.columns import EMPTY, MEDIA
from posttrain.data.dialects import listed, mark, printed

Message = dict[str, str]
"""`role` and `content`, and `extra` where there is more that a chat template may read: a JSON object as text."""

TRANSCRIPT: Final = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):")
# The same but for the start of a text. It begins with one character, which `re` finds many times as fast as one of two.
LATER_TURN: Final = re.compile(r"\n\r?\n(Human|Assistant):")
TEMPLATE_TOKEN: Final = re.compile(r"<\|\w+\|>|\[INST\]|<start_of_turn>")
TRANSCRIPT_ROLES: Final = {"Human": "user", "Assistant": "assistant"}
# openassistant-guanaco writes turns without a line break between them; Alpaca's prompt has Instruction, Input and Response.
HEADING: Final = re.compile(r"###\s*(System|Human|User|Instruction|Input|Assistant|Response)\s*:\s*")
STARTS: Final = frozenset("HA# \t\r\n")
OPENED: Final = re.compile(r"\s*###\s*(?:Human|User|Assistant)\s*:")
HEADING_ROLES: Final = {
    "System": "system", "Human": "user", "User": "user", "Instruction": "user", "Input": "user",
    "Assistant": "assistant", "Response": "assistant",
}  # fmt: skip
ROLES: Final = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard", "bing", "claude", "ai", "answer"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython", "environment"), "tool"),
}
"""What data sets call the four roles, in lower case."""
CALLING: Final = frozenset({"function_call", "tool_call", "tool_calls"})  # roles whose content is a call as JSON
NORMAL: Final = frozenset(ROLES.values())
PLAIN: Final = frozenset({"role", "content"})
SPEAKER: Final = ("role", "from", "speaker")
SAID: Final = ("content", "value", "text")
KEPT: Final = {
    **{name: name for name in ("name", "tool_calls", "tool_call_id", "reasoning_content", "tools")},
    **dict.fromkeys(("reasoning", "thinking"), "reasoning_content"),
}
"""Other fields of a message that are kept for the chat template, and what the template calls them."""
TRAINED: Final = ("weight", "loss", "train")  # fields that say whether a turn is trained on: OpenAI, ms-swift, axolotl
TEXT_PARTS: Final = ("text", "input_text", "output_text")
OPENERS: Final = frozenset("[{ \t\r\n")  # with which text may start that is a list of messages
WRITTEN_LIST: Final = re.compile(r"""\s*(?:\[\s*)?\{\s*["'](?:role|from|content|value)["']""")
_SPEAKS: Final = rf"""["'](?:role|from)["']\s*:\s*["'](?:{"|".join(ROLES)})["']"""
CUT_LIST: Final = re.compile(rf"""\s*\[\s*\{{\s*(?:["'](?:content|value)["']\s*:\s*["'].*)?{_SPEAKS}""", re.I | re.S)


class WrongType(ValueError):
    """A value of a row that cannot be read as what its column should hold. `code` is what the quarantine calls it."""

    def __init__(self, message: str, code: str = "wrong_type") -> None:
        super().__init__(message)
        self.code = code


def messages(value: object, role: str, field: str, turns: bool = True) -> list[Message]:
    """Messages from text (one message by `role`, or an HH transcript), a message, a list of messages, or None (no messages).

    Text that is a list of messages written as JSON, or as Python prints it, is read as the list. System messages without
    content are left out: several data sets write one into every row.

    Args:
        value: what the column holds.
        role: who speaks where the text does not say.
        field: name of the column, for messages to people.
        turns: whether text may be a transcript.

    Raises:
        WrongType: for anything else.
    """
    if not isinstance(value, list):
        value = written(value, field)
    if value is None:
        return []
    if isinstance(value, str):
        return turns_of(value) if turns and is_transcript(value) else [{"role": role, "content": value}]
    if isinstance(value, Mapping) and _first(value, SPEAKER) is not None:
        value = listed(value) if isinstance(_first(value, SPEAKER), list) else [value]
    if not isinstance(value, list):
        raise WrongType(f"`{field}` is {kind(value)}, not text or a list of messages")
    found = [_message(item, f"{field}[{at}]") for at, item in enumerate(value)]
    return [message for message in found if message["role"] != "system" or message["content"].strip()]


def written(value: object, field: str) -> object:
    """The value itself, or what it is the text of: bytes as UTF-8, and messages that were written into a string.

    Raises:
        WrongType: for bytes that are no text, and for messages that cannot be read.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise WrongType(f"`{field}` is bytes that are not UTF-8: {error}") from None
    if not isinstance(value, str) or value[:1] not in OPENERS or not WRITTEN_LIST.match(value):
        return value
    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError:
        try:
            read = printed(value)
        except ValueError:
            if CUT_LIST.match(value) and not value.rstrip().endswith("]"):
                raise WrongType(f"`{field}` is a list of messages as text that breaks off", "cut_messages") from None
            return value
    items = read if isinstance(read, list) else [read]
    return read if all(isinstance(item, dict) and _speaks(item) for item in items) else value


def _speaks(item: Mapping[str, Any]) -> bool:
    """Whether an object is a message: who speaks is one of the known roles, and there is nothing that no message has."""
    role = _first(item, SPEAKER)
    return isinstance(role, str) and role.strip().lower() in ROLES


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((found for name in names if (found := value.get(name)) is not None), None)


def _message(value: Any, field: str) -> Message:
    """One message in normal form; what is usual is what is quick."""
    if type(value) is dict and len(value) == 2:
        role, content = value.get("role"), value.get("content")
        if type(role) is str and role in NORMAL and type(content) is str:
            return value
    if not isinstance(value, Mapping):
        raise WrongType(f"`{field}` is {kind(value)}, not a message with `role` and `content`")
    role, content = _first(value, SPEAKER), _first(value, SAID)
    if not isinstance(role, str):
        raise WrongType(f"`{field}.role` is {kind(role)}, not text")
    extra = {} if value.keys() <= PLAIN else _extra(value, field)
    known = role.strip().lower()
    if known in CALLING:
        extra["tool_calls"], content = _calls(content, field), ""
    message = {"role": ROLES.get(known, role), "content": content if isinstance(content, str) else joined(content, field)}
    return with_extra(message, extra)


def joined(content: object, field: str) -> str:
    """The text of a message's content: its parts one after the other where it is a list of them.

    Raises:
        WrongType: for a part that is no text, and for content that is neither.
    """
    content = written(content, field)
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise WrongType(f"`{field}.content` is {kind(content)}, not text")
    return "".join(_part(part, f"{field}.content[{at}]") for at, part in enumerate(content))


def _part(part: object, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise WrongType(f"`{field}` is {kind(part)}, not a part with text")
    name, said = part.get("type", "text"), part.get("text")
    if name in TEXT_PARTS and isinstance(said, str):
        return said
    raise WrongType(f"`{field}` is a part of type {name}, which is not read; `ignore: [{name}]` drops it", "not_text")


def _extra(value: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The other fields of a message that count, by the names of chat templates; null and empty ones are left out."""
    if media := next((name for name in MEDIA if value.get(name) not in EMPTY), None):
        raise WrongType(f"`{field}.{media}` is no text, and is not read; `ignore: [{media}]` drops it", "not_text")
    extra = {known: found for name, known in KEPT.items() if (found := value.get(name)) not in EMPTY}
    if "tool_calls" in extra:
        extra["tool_calls"] = _calls(extra["tool_calls"], field)
    if (call := value.get("function_call")) and "tool_calls" not in extra:  # OpenAI's older name for one call
        extra["tool_calls"] = _calls(call, field)
    for name in TRAINED:
        said = mark(value.get(name))
        if said not in (None, 0, 1):  # False and True are these two
            raise WrongType(f"`{field}.{name}` is {said!r}, not 0 or 1")
        if said == 0:
            extra["weight"] = 0
    return extra


def _calls(value: object, field: str) -> list[dict[str, Any]]:
    """Calls of tools as chat templates expect them: arguments as an object rather than as its text."""
    value = written_json(value)
    calls = value if isinstance(value, list) else [value]
    return [_call(written_json(call), f"{field}.tool_calls[{at}]") for at, call in enumerate(calls)]


def _call(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongType(f"`{field}` is {kind(value)}, not a call with `name` and `arguments`")
    function = value.get("function", value)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise WrongType(f"`{field}` has no name of a function")
    arguments = function.get("arguments", function.get("parameters"))
    called = {"name": function["name"], "arguments": written_json({} if arguments is None else arguments)}
    return {**({"id": value["id"]} if value.get("id") else {}), "type": "function", "function": called}


def written_json(value: object) -> object:
    """What a text is the JSON of, where it is an object or a list; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    return value


def with_extra(message: Message, extra: Mapping[str, Any]) -> Message:
    """The message with more in `extra`; without the field where there is nothing."""
    more = extra_of(message) | dict(extra)
    plain = {"role": message["role"], "content": message["content"]}
    return plain | {"extra": orjson.dumps(more, option=orjson.OPT_SORT_KEYS).decode()} if more else plain


def extra_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message has beside role and content: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, `weight`, and on
    the first message of a conversation its `tools`."""
    found: dict[str, Any] = orjson.loads(message["extra"]) if message.get("extra") else {}
    return found


def is_transcript(text: str) -> bool:
    """Whether a text starts as a turn of a dialogue: ``Human:`` as HH writes it, or ``### Human:``."""
    return text[:1] in STARTS and bool(TRANSCRIPT.match(text) or OPENED.match(text))


def turns_of(text: str) -> list[Message]:
    """The messages of such a text."""
    return transcript(text) if TRANSCRIPT.match(text) else headed(text, "text")


def transcript(text: str) -> list[Message]:
    r"""The messages of an HH transcript: turns open with ``\n\nHuman:`` or ``\n\nAssistant:`` and are stripped of white space."""
    parts = LATER_TURN.split("\n\n" + text.lstrip())[1:]
    return [
        {"role": TRANSCRIPT_ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def headed(text: str, field: str) -> list[Message]:
    """The messages of a text whose turns open with headings such as ``### Human:``; what stands before the first is the system's.

    Raises:
        WrongType: when there is no heading.
    """
    lead, *parts = HEADING.split(text)
    if not parts and (token := TEMPLATE_TOKEN.search(text)):
        raise WrongType(
            f"`{field}` was written by a chat template ({token[0]}), and is not taken apart again: "
            "give the messages, or prompt and completion"
        )
    if not parts:
        raise WrongType(f"`{field}` has no turn that opens with `### Human:` or `### Assistant:`; documents go to data.corpus")
    found: list[Message] = [{"role": "system", "content": lead.strip()}] if lead.strip() else []
    for heading, said in zip(parts[::2], parts[1::2], strict=True):
        role, content = HEADING_ROLES[heading], said.strip()
        if heading == "Input" and found and found[-1]["role"] == "user":
            found[-1]["content"] = "\n\n".join(filter(None, (found[-1]["content"], content)))
        else:
            found.append({"role": role, "content": content})
    return found


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
