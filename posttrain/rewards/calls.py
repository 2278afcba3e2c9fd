"""Calls of a function of the user: in time or not at all, and with whose sample it fails."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


class TooLong(Exception):
    """A call was not back in time."""


def takes_rows(function: Callable[..., Any]) -> bool:
    """Whether a function is given rows: it takes (prompts, responses, rows), and calls the third so or cannot do without it.

    Raises:
        TypeError: when it can be called with neither two arguments nor these three.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C that does not say
        return False
    if "rows" in signature.parameters or not _binds(signature, 2):
        if not _binds(signature, 3):
            raise TypeError(f"it takes {signature}")
        return True
    return False


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def in_time(call: Callable[[], Sequence[Any]], timeout: float | None) -> list[Any]:
    """What a call gives, from a thread that is left behind when it does not come back: Python can stop none from outside.

    Args:
        call: what is called.
        timeout: in seconds; None waits for ever, in this thread.

    Raises:
        TooLong: when it does not come back; else whatever it raises.
    """
    if timeout is None:
        return list(call())
    outcome: list[list[Any] | BaseException] = []

    def run() -> None:
        try:
            outcome.append(list(call()))
        except BaseException as error:  # raised again where the function was called from
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True, name="reward")
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TooLong(f"no answer within {timeout:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def said(error: BaseException) -> str:
    """An exception in words."""
    return str(error) if isinstance(error, TooLong) else f"{type(error).__name__}: {error}"
