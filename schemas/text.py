"""Texts of others as a terminal may show them: what would steer it, or turn its words around, is spelt out."""

from __future__ import annotations

import re
import reprlib
from typing import Any

HIDDEN = "***"
# C0 without tab and line feed, DEL and C1; zero-width and bidirectional marks, line and paragraph separators, tag characters.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200
_short.maxlong = 60
_short.maxlist = _short.maxtuple = _short.maxdict = 8
_short.maxlevel = 4


def visible(text: str) -> str:
    r"""The text with every character that a terminal would obey as its escape: `\x1b`, `\u202e`."""
    return _STEERING.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def visible_json(document: str) -> str:
    r"""The same for JSON, which still means what it meant: characters outside of ASCII as `\u202e`."""
    return _STEERING.sub(lambda found: found[0] if found[0] == "\r" else _json_escape(ord(found[0])), document)


def _json_escape(code: int) -> str:
    units = chr(code).encode("utf-16-be")
    return "".join(f"\\u{units[at] * 256 + units[at + 1]:04x}" for at in range(0, len(units), 2))


def short(value: Any) -> str:
    """`repr` of a value of any size, cut to what a message can hold."""
    return _short.repr(value)
