"""How long work tells a person where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one stage at a time."""

    def start(self, what: str, total: int) -> None:
        """`total` units of `what` are about to be worked on."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` units are finished in all; `metrics` are the latest numbers."""

    def note(self, text: str) -> None:
        """A sentence that a person should see."""


class Quiet:
    """Says nothing."""

    def start(self, what: str, total: int) -> None:
        """Ignored."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


def counted(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """Start `what`, and return a function that is told how many units each piece of work finished."""
    progress.start(what, total)
    done = 0

    def add(units: int) -> None:
        nonlocal done
        done += units
        progress.advance(done, {})

    return add


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current() -> Progress:
    """The reporter that the caller of this run has set."""
    return _current.get() or Quiet()


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Work inside reports to `progress`."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)
