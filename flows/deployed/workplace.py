"""What is around a flow on a worker: its signals, its progress as log lines, and the note by which others see that it lives."""

from __future__ import annotations

import io
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.exceptions import MissingContextError, TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_flow_run

from flows.deployed.live_artifact import shown
from flows.live import TerminalProgress
from flows.terminal import PlainConsole
from posttrain.runtime import redaction
from posttrain.runtime.child_processes import die_with_parent
from posttrain.runtime.interruption import Terminated, owned_signals
from posttrain.runtime.liveness import note_of_this_process, noted
from posttrain.runtime.progress import reporting

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
WIDTH = 400  # of a log line; longer ones are folded


class _Lines(io.StringIO):
    """A stream whose lines are log records of one flow run, from whatever thread they come."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            self.log.info("%s", line.rstrip())
        return len(text)


@contextmanager
def at_work(what: str, note: Path) -> Iterator[None]:
    """Work in a process of a worker: SIGTERM has training write a checkpoint and the run end as Crashed, for others to go on.

    The process ends with the worker that started it, kill -9 included.

    Args:
        what: the stage, or the chain.
        note: where the process says that it lives.
    """
    redaction.install()
    log = _logger()
    progress = TerminalProgress(PlainConsole(file=_Lines(log), width=WIDTH, force_terminal=False))
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            die_with_parent()
            stack.enter_context(_termination())
        stack.enter_context(noted(note, note_of_this_process(what, this_flow_run.get_id())))
        stack.enter_context(progress)
        stack.enter_context(reporting(progress))
        stack.enter_context(shown(progress, this_flow_run.get_id()))
        yield


@contextmanager
def _termination() -> Iterator[None]:
    """Inside the signal is ours, for training to end its step; then it is Prefect's, which tells a cancellation from a kill."""
    try:
        with owned_signals():
            yield
    except Terminated:
        raise TerminationSignal(signal=signal.SIGTERM) from None


def _logger() -> Log:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
