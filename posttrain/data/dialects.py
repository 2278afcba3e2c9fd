"""How data sets write what a table or JSON has a way of its own for: messages in columns, and truth values as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MARKS: Final = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "": None}


def mark(value: object) -> object:
    """What text means that says yes or no; anything else as it is."""
    return MARKS.get(value.strip().lower(), value) if isinstance(value, str) else value


def listed(columns: Mapping[str, Any]) -> list[dict[str, Any]] | Mapping[str, Any]:
    """The rows of an object of lists, as `datasets` keeps a `Sequence` of objects; the object itself where they do not match."""
    lists = {name: each for name, each in columns.items() if each is not None}
    if not all(isinstance(each, list) for each in lists.values()) or len({len(each) for each in lists.values()}) > 1:
        return columns
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
