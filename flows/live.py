"""Progress while stages run: bars in a terminal; elsewhere lines, at least one every 30 seconds. All of it goes to stderr."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from posttrain.runtime.redaction import clean

SHOWN = ("score", "kl", "loss", "validation_loss", "held_out_accuracy", "held_out_calibration_error", "accuracy", "margin")
SILENCE_SECONDS = 30.0  # longest time without a line
SHORT_SECONDS = 1.0  # work that ends sooner is not announced
WINDOW_SECONDS = 600.0  # over which rates are taken: a step of a real model takes half a minute on a CPU
SPOKEN_DEPTH = 2  # a stage and its parts get lines of their own; what is inside of these comes in every round of training


class TerminalProgress:
    """Pieces of work, each inside the one that was started before it and has not ended.

    Args:
        console: where people read.
        silence: seconds after which a line says where the work is, although nothing was reported. In a terminal the bars do.
    """

    def __init__(self, console: Console, silence: float = SILENCE_SECONDS) -> None:
        self.console, self.silence = console, silence
        self.bars = Progress(
            SpinnerColumn(), TextColumn("{task.description:<12}", markup=False), BarColumn(), CountColumn(), RateColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}", markup=False), console=console,
            disable=not console.is_terminal, transient=True, refresh_per_second=4, speed_estimate_period=WINDOW_SECONDS,
        )  # fmt: skip
        self.work: list[Task] = []  # the outermost first
        self.began = self.spoke = time.monotonic()
        self.lock = threading.RLock()
        self.over = threading.Event()

    def __enter__(self) -> TerminalProgress:
        """Start drawing, or watching the silence."""
        self.bars.start()
        if not self.console.is_terminal:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self.over.set()
        self.bars.stop()

    def start(self, what: str, total: int) -> None:
        """A new bar; 0 is an unknown total."""
        with self.lock:
            number = self.bars.add_task(clean(what), total=total or None, numbers="", announced=False)
            self.work.append(next(task for task in self.bars.tasks if task.id == number))

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """Move the innermost bar and show the latest numbers."""
        numbers = _numbers(metrics)
        with self.lock:
            if self.work:
                before = self.work[-1].fields
                first = bool(numbers) and not before["numbers"]  # a person waits for them: they are announced
                announced = before["announced"] and not first
                self.bars.update(self.work[-1].id, completed=done, numbers=numbers or before["numbers"], announced=announced)

    def end(self, what: str) -> None:
        """Take away the bar with all that stand below it; a line stays."""
        what = clean(what)
        with self.lock:
            if what not in [task.description for task in self.work]:
                return
            task = None
            while task is None or task.description != what:
                task = self.work.pop()
                self.bars.remove_task(task.id)
            if len(self.work) < SPOKEN_DEPTH and (task.total or (task.elapsed or 0) >= SHORT_SECONDS):
                self._say(", ".join(filter(None, [f"{_done(task)} in {_clock(task.elapsed or 0)}", task.fields["numbers"]])))
                for outer in self.work:  # this line was about a part of it
                    outer.fields["announced"] = True

    def note(self, text: str) -> None:
        """A line above the bars."""
        with self.lock:
            self.console.print(clean(text), style="dim", highlight=False, markup=False, soft_wrap=True)
            self.spoke = time.monotonic()

    def where(self) -> str:
        """What is worked on and how far it is, the outermost first; an inner name that says the outer one stands alone."""
        with self.lock:
            kept = [
                task
                for task, inner in itertools.zip_longest(self.work, self.work[1:])
                if not (inner and inner.description.startswith(task.description))
            ]
            return " > ".join(map(_done, kept)) or "between stages"

    def share(self) -> float | None:
        """Percent of the outermost work that can be counted; None where none can."""
        with self.lock:
            counted = next((task for task in self.work if task.total), None)
            return counted.percentage if counted else None

    def _state(self) -> str:
        task = self.work[-1] if self.work else None
        parts = [self.where(), *([rate(task), _left(task), *(t.fields["numbers"] for t in self.work)] if task else [])]
        return ", ".join(filter(None, parts))

    def _watch(self) -> None:
        """Announce what has run for a second, and break every silence."""
        while not self.over.wait(min(SHORT_SECONDS, self.silence) / 2):
            with self.lock:
                long = (task for task in self.work[:SPOKEN_DEPTH] if (task.elapsed or 0) >= SHORT_SECONDS)
                new = [task for task in long if not task.fields["announced"]]
                if new or time.monotonic() - self.spoke >= self.silence:
                    self._say(self._state())
                for task in new:
                    task.fields["announced"] = True

    def _say(self, text: str) -> None:
        line = f"[{_clock(time.monotonic() - self.began)}] {text}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.spoke = time.monotonic()


class CountColumn(MofNCompleteColumn):
    """Done of total."""

    def render(self, task: Task) -> Text:
        """Empty for work that cannot say either."""
        return super().render(task) if task.total or task.completed else Text()


class RateColumn(ProgressColumn):
    """Units per second, or seconds per unit."""

    def render(self, task: Task) -> Text:
        """Empty until it is known."""
        return Text(rate(task), style="progress.data.speed")


def rate(task: Task) -> str:
    """How fast a piece of work goes; empty until two reports of it have come."""
    speed = task.speed
    if not speed:
        return ""
    return f"{speed:,.{int(speed < 10)}f}/s" if speed >= 1 else f"{1 / speed:,.{int(speed > 0.1)}f} s each"


def _left(task: Task) -> str:
    seconds = task.time_remaining
    return "" if seconds is None else f"{_clock(seconds)} left"


def _done(task: Task) -> str:
    if task.total:
        return f"{task.description} {int(task.completed):,} of {int(task.total):,}"
    return f"{task.description} {int(task.completed):,}" if task.completed else task.description


def _numbers(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
