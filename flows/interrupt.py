"""Ctrl-C and SIGTERM on the command line: one sentence says what is kept and how to go on, where a traceback would stand."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from flows.live import TerminalProgress
from posttrain.runtime.interruption import Terminated, owned_signals
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import reporting

STUCK_SECONDS = 15.0  # that threads have to end, as Prefect's do in one or two
INTERRUPTED, TERMINATED = 130, 143  # 128 and the number of the signal, as shells count


@contextmanager
def watched(store: Path, console: Console) -> Iterator[None]:
    """Show the progress of the work inside; Ctrl-C and SIGTERM end it with their exit code.

    Raises:
        typer.Exit: with the code of the signal.
    """
    progress = TerminalProgress(console)
    try:
        with owned_signals(), progress, reporting(progress):
            yield
    except KeyboardInterrupt as stopped:
        console.print(_sentence(progress.where(), store), style="yellow", highlight=False, markup=False, soft_wrap=True)
        code = TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
        _end_even_if_stuck(code)
        raise typer.Exit(code) from None


def _end_even_if_stuck(code: int) -> None:
    """A signal may strike while a lock is held, of logging, say: it stays held, and threads of libraries wait for it at exit."""
    timer = threading.Timer(STUCK_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _sentence(where: str, store: Path) -> str:
    step = _checkpoint(store, where)
    kept = "Finished stages" if step is None else f"Finished stages and the checkpoint of step {step}"
    return f"stopped in {where}. {kept} are kept in {store}: run the same command again to go on."


def _checkpoint(store: Path, where: str) -> int | None:
    """Step of the newest checkpoint of the stage that trains: training has made its curve anew when it began."""
    stage, _, what = where.partition(" ")
    curves = sorted(store.glob(f"{stage}/*.partial/curve.jsonl"), key=lambda path: path.stat().st_mtime)
    if not what.startswith("training") or not curves:
        return None
    return max((int(path.name) for path in curves[-1].parent.glob(f"{CHECKPOINT}/[0-9]*") if path.name.isdigit()), default=None)
