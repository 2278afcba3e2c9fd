"""Signals to end: an entry point that owns its process says so, and training then ends its step before they act.

Elsewhere a process belongs to somebody else, a Prefect worker for one, who has a way of its own of ending it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

_owned: ContextVar[bool] = ContextVar("signals_are_owned", default=False)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; it unwinds the process as Ctrl-C does."""


@contextmanager
def owned_signals() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`, and training ends its step and writes a checkpoint first. For the main thread."""
    before, token = signal.signal(signal.SIGTERM, _terminate), _owned.set(True)
    try:
        yield
    finally:
        _owned.reset(token)
        signal.signal(signal.SIGTERM, before)


def are_owned() -> bool:
    """Whether the caller is inside `owned_signals`."""
    return _owned.get()


def _terminate(signal_number: int, frame: object) -> NoReturn:
    raise Terminated
