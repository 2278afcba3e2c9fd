"""One reading of JSON for every container: `NaN` is null, and a fault is named by what is wrong: encoding, syntax, a cut."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from posttrain.data.containers.rows import LONGEST_VALUE
from posttrain.data.containers.slips import slip_of_line

BOM: Final = b"\xef\xbb\xbf"
ESCAPED_QUOTE: Final = b"\\u0022"  # written out again it is `\"`
# What Python's and JavaScript's writers leave where a number is none; JSON has no word for it.
NOT_FINITE: Final = re.compile(rb"\bNaN\b|\bInfinity\b")
TOKENS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
CUT_NUMBER: Final = re.compile(r"\.|[eE][+-]?")


class Fault(ValueError):
    """Text that is not JSON, or not UTF-8.

    Args:
        said: ``code: detail`` of a row that is such a text, with the place in it.
        why: what is wrong, without the place.
        remedy: what to do, or None where only who wrote it knows.
    """

    def __init__(self, said: str, why: str, remedy: str | None) -> None:
        super().__init__(said)
        self.why, self.remedy = why, remedy


def parse(text: bytes) -> Any:
    """The value of a JSON text; `NaN` and `Infinity` are null.

    Raises:
        Fault: when it is not UTF-8, not JSON, nested too deeply, or has half of a surrogate pair.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if NOT_FINITE.search(text):
            try:
                return _lenient(text)
            except (ValueError, RecursionError):
                pass
        raise _fault(text, error) from None


def _lenient(text: bytes) -> Any:
    value = json.loads(text.decode(), parse_constant=lambda name: None)
    json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair has no UTF-8
    return value


def _fault(text: bytes, error: ValueError) -> Fault:
    """Which of the two things is wrong with a text: its encoding or its syntax."""
    try:
        why, place, remedy = slip_of_line(text.decode(), str(error))
    except UnicodeDecodeError as encoding:
        return Fault(f"not_utf8: byte {encoding.start + 1} of the line", "text that is not UTF-8", "write the file as UTF-8")
    return Fault(f"not_json: {why}{place}{f'; {remedy}' if remedy else ''}", why, remedy)


def unfinished(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text would have to go on: JSON that is cut, not JSON that is wrong."""
    rest = text[error.pos :]
    cut = any(token.startswith(rest) for token in TOKENS) or CUT_NUMBER.fullmatch(rest)
    escape = error.msg.startswith("Invalid \\u") and len(rest) < 6
    return bool(cut) or escape or error.msg.startswith("Unterminated string")


def is_cut(text: bytes) -> bool:
    """Whether a text is the beginning of an object."""
    said = text.decode(errors="replace").strip()
    if not said.startswith("{"):
        return False
    try:
        json.loads(said)
    except json.JSONDecodeError as error:
        return unfinished(said, error)
    except (RecursionError, ValueError):  # nested too deeply, or a number of over 4,300 digits
        pass
    return False


def least_keys(value: dict[str, Any]) -> int:
    """Keys that an object has at least: its own, and those of objects in lists of it, as messages are.

    A text of that object with as many colons after a quotation mark has no key twice, and no blank before a colon.
    """
    count = len(value)
    for each in value.values():
        if type(each) is list:
            for inner in each:
                if type(inner) is dict:
                    count += len(inner)
    return count


def doubled_keys(text: bytes, value: dict[str, Any]) -> list[str]:
    """Keys that one object of a text has twice, of which a parser keeps the last.

    Counting comes first, since it costs little: as many colons after a quotation mark as in what was kept is the rule.
    """
    colons = text.count(b'":') + text.count(b'" :')
    if colons == least_keys(value):  # most rows, which need not be written
        return []
    try:
        written = orjson.dumps(value)
    except orjson.JSONEncodeError:
        written = b""
    kept = written.count(b'":')
    if colons == kept and ESCAPED_QUOTE not in text:
        return []
    keys = kept - written.count(b'\\":')  # without blanks each key ends before a colon
    if colons == keys or colons - text.count(b'\\":') <= keys:
        return []
    found: dict[str, None] = {}

    def pairs(items: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in items]
        if len(set(names)) < len(names):
            found.update(dict.fromkeys(name for name in names if names.count(name) > 1))

    try:
        json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):  # what one parser reads and the other does not is no matter of doubled keys
        return []
    return list(found)


def excerpt(text: bytes) -> str:
    """The beginning of a text, for a message."""
    return text[: 4 * LONGEST_VALUE].decode(errors="replace").strip()
