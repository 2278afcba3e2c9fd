"""What the processes that train tell the one that launched them: files in the folder of their request.

request.json     what they are to do
progress.jsonl   what the main one reports
built.json       the result
failure.json     the first exception of any of them
"""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.errors import Refusal

REQUEST, PROGRESS, BUILT, FAILURE = "request.json", "progress.jsonl", "built.json", "failure.json"


class WrittenProgress:
    """Progress as lines of a file: the name of a method of `Progress`, and its arguments."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, what: str, total: int) -> None:
        """A line."""
        self._write("start", what, total)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """A line."""
        self._write("advance", done, dict(metrics))

    def end(self, what: str) -> None:
        """A line."""
        self._write("end", what)

    def note(self, text: str) -> None:
        """A line."""
        self._write("note", text)

    def _write(self, call: str, *arguments: Any) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps([call, *arguments]) + "\n")


def growing_lines(path: Path) -> Iterator[str | None]:
    """Lines of a file that is being written, and None whenever there is no whole one."""
    while not path.exists():
        yield None
    with path.open() as stream:
        line = ""
        while True:
            line += stream.readline()
            whole = line.endswith("\n")
            yield line if whole else None
            line = "" if whole else line


def describe(error: Exception) -> str:
    """An exception as JSON, with arguments that are not plain values as text."""
    arguments: Any = error.__reduce__()[1]
    return json.dumps(
        {
            "module": type(error).__module__,
            "name": type(error).__qualname__,
            "parts": error.parts if isinstance(error, Refusal) else {},
            "arguments": [each if isinstance(each, str | int | float | None) else str(each) for each in arguments],
            "text": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
    )


def exception_of(description: str) -> Exception:
    """The exception that was described, with its traceback as a note.

    Where its class does not take the arguments, a RuntimeError with its name and text.
    """
    found = json.loads(description)
    error = _made_again(found) or RuntimeError(f"{found['name']}: {found['text']}")
    error.add_note(f"in the process that raised it:\n{found['traceback']}")
    return error


def _made_again(found: dict[str, Any]) -> Exception | None:
    try:
        kind = getattr(importlib.import_module(found["module"]), found["name"])
        return kind(*found["arguments"], **found["parts"]) if issubclass(kind, Exception) else None
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
