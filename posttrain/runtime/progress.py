"""How long work tells a person where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of pieces of work, which may lie inside one another: stage, training, responses."""

    def start(self, what: str, total: int) -> None:
        """`total` units of `what` are about to be worked on; 0 is an unknown number."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """`done` units of the innermost piece are finished in all; `metrics` are the latest numbers, where there are new ones."""

    def end(self, what: str) -> None:
        """`what`, and all that was started inside it, is over."""

    def note(self, text: str) -> None:
        """A sentence that a person should see."""


class Quiet:
    """Says nothing."""

    def start(self, what: str, total: int) -> None:
        """Ignored."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Ignored."""

    def end(self, what: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


def counted(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """Start `what`, and return a function that is told how many more units are finished; with the last one `what` ends."""
    progress.start(what, total)
    done = 0

    def add(units: int) -> None:
        nonlocal done
        done += units
        progress.advance(done, {})
        if done == total:
            progress.end(what)

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


@contextmanager
def working(what: str) -> Iterator[None]:
    """Report work of unknown length. Where it is interrupted it does not end, so that whoever says so knows what it was."""
    progress = current()
    progress.start(what, 0)
    try:
        yield
    except Exception:
        progress.end(what)
        raise
    progress.end(what)
