"""The one exception for "your input is wrong": caught at the edge, printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any

from schemas.secrets import without_credentials
from schemas.text import visible

LONGEST = 20_000  # characters of one part of a refusal


class Refusal(Exception):
    """An input that posttrain will not work with; its four parts hold no secret and nothing that steers a terminal.

    Args:
        where: the recipe field (``alignment.beta``) or the place in a file (``pairs.jsonl:17``).
        found: what stands there.
        allowed: what may stand there.
        remedy: what the reader should do now.
        details: numbers behind it for programs, as JSON has them; a person is told by the four parts.
    """

    def __init__(
        self, *, where: str, found: str, allowed: str, remedy: str, details: Any = None
    ) -> None:  # fmt: skip
        self.details: dict[str, Any] = dict(details or {})
        self.where, self.found, self.allowed, self.remedy = map(_shown, (where, found, allowed, remedy))
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}\n  allowed: {self.allowed}\n  remedy:  {self.remedy}"

    @property
    def parts(self) -> dict[str, str]:
        """The four parts by name."""
        return {"where": self.where, "found": self.found, "allowed": self.allowed, "remedy": self.remedy}

    def __reduce__(self) -> tuple[Callable[[], Refusal], tuple[()]]:
        """Keep the four parts when the exception crosses a process border."""
        return functools.partial(type(self), **self.parts, details=self.details), ()


def _shown(text: str) -> str:
    """As a person and a log may see it: no secret, nothing that steers a terminal, of bounded length."""
    return visible(without_credentials(text[:LONGEST]))


class GateRefused(Exception):
    """A finished candidate that may not be promoted. The command line turns it into exit code 3."""


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was most likely meant to be, or None."""
    return next(iter(difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)), None)
