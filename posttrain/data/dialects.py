"""How data sets write what a table or JSON has a way of its own for: messages in columns, values as Python prints them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

MARKS: Final = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "": None}
STRINGS: Final = r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
NUMPY: Final = re.compile(rf"{STRINGS}|(?P<gap>\}}\s+\{{)|array\((?=\[)|(?P<end>\])(?:,\s*dtype=\w+)?\)|\b(?P<nan>nan)\b", re.S)
"""Text, and what numpy prints otherwise than Python does: no comma between objects, `array(…)` around lists, and `nan`."""


def mark(value: object) -> object:
    """What text means that says yes or no; anything else as it is."""
    return MARKS.get(value.strip().lower(), value) if isinstance(value, str) else value


def listed(columns: Mapping[str, Any]) -> list[dict[str, Any]] | Mapping[str, Any]:
    """The rows of an object of lists, as `datasets` keeps a `Sequence` of objects; the object itself where they do not match."""
    lists = {name: each for name, each in columns.items() if each is not None}
    if not all(isinstance(each, list) for each in lists.values()) or len({len(each) for each in lists.values()}) > 1:
        return columns
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def printed(text: str) -> object:
    """What Python prints as this text; of arrays, as `pandas` writes them into a CSV file, the lists.

    Raises:
        ValueError: when it is nothing that Python prints of texts, numbers, lists and objects.
    """
    for tried in (str.strip, _without_numpy):
        try:
            return ast.literal_eval(tried(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise ValueError("not what Python prints of plain values")


def _without_numpy(text: str) -> str:
    return NUMPY.sub(_plain, text.strip())


def _plain(found: re.Match[str]) -> str:
    if found["gap"]:
        return "}, {"
    return "None" if found["nan"] else found["text"] or found["end"] or ""
