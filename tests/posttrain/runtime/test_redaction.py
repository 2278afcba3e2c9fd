"""Logs and exceptions say no secret, in message, arguments and traceback; what holds none is as it was."""

from __future__ import annotations

import io
import logging
import threading

import pytest

from posttrain.runtime import redaction
from schemas.errors import Refusal

URI = "postgresql://u:hunter2@db/x"


@pytest.fixture
def log():
    """A logger and what its handler wrote; the filter is taken away again."""
    before, hook = logging.getLogRecordFactory(), threading.excepthook
    redaction.install()
    redaction.install()
    logger, stream = logging.getLogger("redaction"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)
    threading.excepthook = hook


def test_messages_and_arguments_are_clean(log):
    logger, stream = log
    logger.warning("cannot open %s", URI)
    logger.warning("plain %s", "\x1b[2J")
    logger.warning("%d of %d", 1, 2)
    assert stream.getvalue() == "cannot open postgresql://***@db/x\nplain \\x1b[2J\n1 of 2\n"


def test_tracebacks_are_clean_through_every_cause(log):
    logger, stream = log
    try:
        try:
            raise OSError(f"no route to {URI}")
        except OSError as error:
            raise RuntimeError("away") from error
    except RuntimeError:
        logger.exception("failed")
    assert "hunter2" not in stream.getvalue()
    assert "no route to postgresql://***@db/x" in stream.getvalue()
    assert "RuntimeError: away" in stream.getvalue()


def test_an_exception_with_a_secret_is_replaced_and_says_the_rest():
    with pytest.raises(redaction.RedactedError, match=r"^OSError: no route to postgresql://\*\*\*@db/x$") as raised, \
         redaction.cleaned_errors():  # fmt: skip
        raise OSError(f"no route to {URI}")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_secret_in_the_cause_alone_counts_too():
    error = RuntimeError("away")
    error.__cause__ = OSError(URI)
    with pytest.raises(redaction.RedactedError, match=r"^RuntimeError: away$"), redaction.cleaned_errors():
        raise error


@pytest.mark.parametrize("error", [ValueError("plain"), Refusal(where="a", found=URI, allowed="b", remedy="c"), KeyError(1)])
def test_other_errors_and_refusals_are_as_they_were(error):
    with pytest.raises(type(error)) as raised, redaction.cleaned_errors():
        raise error
    assert raised.value is error
    assert "hunter2" not in str(raised.value)


def test_a_thread_that_dies_says_no_secret(log, capsys):
    def die() -> None:
        raise OSError(URI)

    thread = threading.Thread(target=die)
    redaction.threading.excepthook = redaction._thread_died
    thread.start()
    thread.join()
    assert "hunter2" not in capsys.readouterr().err
