"""What is wrong with text that is no JSON, in the words of who wrote it, and what to do about it."""

from __future__ import annotations

import json
import re
from typing import Final

PYTHON: Final = "single quotes around text, as Python prints objects, where JSON has double ones"
WRITER: Final = "write it with a JSON writer, such as json.dumps in Python"
LITERALS: Final = {
    "True": "true",
    "False": "false",
    **dict.fromkeys(("None", "undefined", "nan", "NAN", "NA", "inf", "NULL", "Null", "nil"), "null"),
}
"""What other languages call a value → what JSON does."""
WORD: Final = re.compile(r"-?([A-Za-z_]\w*)")
STRING: Final = re.compile(r'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
FIRST, SECOND = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
SURROGATES: Final = re.compile(rf"{FIRST}{SECOND}|(?P<half>{FIRST}|{SECOND})")
CLOSE: Final = {"[": "]", "{": "}"}
TYPOGRAPHIC: Final = "\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019"  # quotation marks
NO_VALUE: Final = "no value after :", "write null there"
COMMENT: Final = ("//", "/*", "#")
LONGEST: Final = 40  # characters of a word that is shown

Slip = tuple[str, str | None]
"""What is wrong, and what to do; None where only who wrote it knows."""


def slip(text: str, error: json.JSONDecodeError, start: int = 0, last: str = "") -> Slip:
    """What a parser stumbles over.

    Args:
        text: that is no JSON; bytes that are not UTF-8 as halves of surrogate pairs.
        error: of the parser of Python's standard library.
        start: of the value in the text.
        last: what stands before the value, white space aside.
    """
    found, before = text[error.pos : error.pos + 1], text[start : error.pos].rstrip()[-1:] or last
    if "\udc80" <= found <= "\udcff":
        return f"byte 0x{ord(found) - 0xDC00:02x}, which is not UTF-8", "write the file as UTF-8, or remove that byte"
    if text.startswith(COMMENT, error.pos):
        return "a comment, which JSON does not have", "remove the comments"
    if error.msg.startswith("Invalid control character"):
        named = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}.get(found, "a control character")
        return f"{named} inside text", r"write it as JSON does (\n, \t), with a JSON writer such as json.dumps in Python"
    if error.msg.startswith("Invalid \\"):
        return r"a backslash that escapes nothing", r"write \\ for a backslash, and ' without one"
    if before == '"' and error.msg.startswith("Expecting ','") and (WORD.match(found) or found == '"'):
        return _behind_text(found)
    return _mark(found, before, error) or _word(text, error, before) or _bracket(text, error, start, before) or (error.msg, None)


def _behind_text(found: str) -> Slip:
    """A letter after text is text in which a quotation mark stands; another quotation mark may begin the next name."""
    if found == '"':
        return "a missing comma", r"put a comma there, or write \" for a quotation mark inside text"
    return "text that goes on behind its quotation mark", r"write \" for a quotation mark inside text, as a JSON writer does"


def _mark(found: str, before: str, error: json.JSONDecodeError) -> Slip | None:
    if not found:
        return None
    if found in "]}" and before == ",":
        return trailing(found)
    if found == "," and before == ":":
        return NO_VALUE
    if found == "," and before in ("", ",", "[", "{"):
        return "a comma with nothing before it", "remove that comma"
    if found == "'":
        return PYTHON, WRITER
    if found in TYPOGRAPHIC:
        return "typographic quotation marks", 'write " in their place'
    if found == "(":
        return "a tuple, as Python prints it", WRITER
    if found in '"{[' and error.msg.startswith("Expecting ','"):
        return "a missing comma", "put a comma there"
    return None


def _word(text: str, error: json.JSONDecodeError, before: str) -> Slip | None:
    """What is a word where JSON has none."""
    if not (word := WORD.match(text, error.pos)):
        return None
    shown = word[0][:LONGEST]
    if error.msg.startswith("Expecting property name"):
        return f"a name without quotation marks: {shown}", 'put " around names, as a JSON writer does'
    if word[1] in LITERALS:
        return f"`{shown}`, where JSON has `{LITERALS[word[1]]}`", WRITER
    if error.msg != "Expecting value":
        return None
    return f"`{shown}`, which is no value of JSON", 'put " around text' if before and before in ":,[" else None


def _bracket(text: str, error: json.JSONDecodeError, start: int, before: str) -> Slip | None:
    """A bracket that closes another one, or none."""
    found = text[error.pos : error.pos + 1]
    if not found or found not in "]}":
        return None
    if before == ":":
        return NO_VALUE
    inner = open_brackets(text[start : error.pos])[-1:] or (before if before in CLOSE else "")
    if not inner:
        return f"a {found} too many", f"remove that {found}"
    if CLOSE[inner] != found:
        return f"{found} where {CLOSE[inner]} belongs", f"close each bracket by its own kind: the last that is open is a {inner}"
    return None


def open_brackets(text: str) -> str:
    """The brackets that are open at the end of a text, the innermost last."""
    found: list[str] = []
    for mark in re.findall(r"[\[\]{}]", STRING.sub("", text)):
        if mark in CLOSE:
            found.append(mark)
        elif found and CLOSE[found[-1]] == mark:
            found.pop()
    return "".join(found)


def trailing(bracket: str) -> tuple[str, str]:
    """The same of a comma that is the last before a bracket."""
    return f"a trailing comma before {bracket}", f"remove the comma before {bracket}"


def slip_of_line(text: str, said: str) -> tuple[str, str, str | None]:
    """The same of a text of its own that another parser refused: what is wrong, where, and what to do.

    Args:
        text: that is no JSON.
        said: what that parser says, for what the standard library takes.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        why, remedy = slip(text, error)
        if why == "Extra data":
            why, remedy = "something behind the object", "write one object a line"
        return why, f" at character {error.pos + 1:,}", remedy
    except RecursionError:
        return "nested too deeply", "", None
    except ValueError:  # Python's own limit
        return "a number of over 4,300 digits", "", None
    if half := next((each for each in SURROGATES.finditer(text) if each["half"]), None):
        why = f"half of a surrogate pair ({half[0]})"
        return why, f" at character {half.start() + 1:,}", "write the whole character, or remove it"
    return said, "", None
