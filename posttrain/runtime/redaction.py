"""The one filter between what happened and whoever reads it: no secret, and nothing that steers a terminal.

Logs pass it as they are made, exceptions before Prefect or a terminal see them, refusals and reports in `schemas`.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import GateRefused, Refusal
from schemas.secrets import without_credentials
from schemas.text import visible

Factory = Callable[..., logging.LogRecord]


class RedactedError(Exception):
    """Stands for an exception whose message could not be freed of a secret; it has the name and the rest of the message."""


def clean(text: str) -> str:
    """The text as a log or a terminal may have it."""
    return visible(without_credentials(text))


def install() -> None:
    """Have every log record pass the filter, and the traceback of a thread that dies; calling it again is free."""
    made = logging.getLogRecordFactory()
    if getattr(made, "cleans", False):
        return
    cleaning = functools.partial(_record, made)
    cleaning.cleans = True  # type: ignore[attr-defined]  # a mark for the next call
    logging.setLogRecordFactory(cleaning)
    threading.excepthook = _thread_died


def _record(made: Factory, *args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record whose message and traceback are clean; where nothing had to go, it is as it was."""
    record = made(*args, **kwargs)
    try:
        message = record.getMessage()
    except Exception:  # a wrong format string: logging reports it, with its arguments
        return record
    if (cleaned := clean(message)) != message:
        record.msg, record.args = cleaned, ()
    if record.exc_info and record.exc_info[0]:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if (cleaned := clean(text)) != text:
            record.exc_text = cleaned
            record.exc_info = (RedactedError, RedactedError(cleaned.splitlines()[-1]), None)
    return record


def _thread_died(died: threading.ExceptHookArgs) -> None:
    text = "".join(traceback.format_exception(died.exc_type, died.exc_value, died.exc_traceback))
    sys.stderr.write(clean(text))


@contextmanager
def cleaned_errors(*keep: type[Exception]) -> Iterator[None]:
    """Errors that leave the block say nothing that a log may not have; Prefect writes their messages into its database.

    Of the kinds in `keep` whoever raises them sees to that.
    """
    try:
        yield
    except Exception as error:
        said = error if isinstance(error, (Refusal, GateRefused, *keep)) else without_secrets(error)
        if said is error:
            raise
        raise said from None


def without_secrets(error: Exception) -> Exception:
    """The error, or where it or what caused it holds a secret, one with the name and the cleaned message of each."""
    whole = "".join(traceback.format_exception(error))
    if without_credentials(whole) == whole:
        return error
    lines = traceback.format_exception_only(error)
    said = RedactedError(without_credentials("".join(lines).strip()))
    said.__traceback__ = error.__traceback__
    return said
