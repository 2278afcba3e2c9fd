"""Chats as text: a template is a program of whoever made the tokenizer, so it runs under limits of time and memory."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from schemas.errors import Refusal

SECONDS: Final = 10.0  # that one chat may take; usual ones take a thousandth
GROWTH: Final = 1 << 30  # bytes by which the process may grow meanwhile
LOOKS: Final = 0.2  # seconds between two looks of the watch


class _Stopped(BaseException):
    """Raised in a rendering thread from outside; no `except Exception` of a template engine may swallow it."""


@dataclass
class _Rendering:
    began: float
    resident: int = 0  # bytes at the first look
    why: str = ""


class _Watch:
    """One thread that looks at all renderings: starting a timer for each would cost more than rendering.

    Python's signals reach the main thread alone, and stages may run in another.
    """

    def __init__(self) -> None:
        self.lock, self.work, self.running = threading.Lock(), threading.Event(), dict[int, _Rendering]()
        self.owner = 0

    def start(self, thread: int) -> None:
        """Watch what this thread does from now on."""
        with self.lock:
            self.running[thread] = _Rendering(time.monotonic())
            if self.owner != os.getpid():  # also in a child that was forked, in which the thread is gone
                self.owner = os.getpid()
                threading.Thread(target=self._look, daemon=True).start()
        self.work.set()

    def stop(self, thread: int) -> str:
        """No longer; returns why it was stopped, if it was. An exception that has not arrived yet is taken back."""
        with self.lock:
            rendering = self.running.pop(thread)
            if rendering.why:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)
        return rendering.why

    def _look(self) -> None:
        while self.work.wait():
            time.sleep(LOOKS)
            self.work.clear()
            with self.lock:
                for thread, rendering in self.running.items():
                    self._judge(thread, rendering)
            if self.running:
                self.work.set()

    def _judge(self, thread: int, rendering: _Rendering) -> None:
        resident = _resident()
        rendering.resident = rendering.resident or resident
        long = time.monotonic() - rendering.began > SECONDS
        if long or resident - rendering.resident > GROWTH:
            time_or_memory = f"renders one chat for over {SECONDS:g} seconds", f"takes over {GROWTH / 2**30:g} GiB for one chat"
            rendering.why = time_or_memory[not long]
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: time alone is limited
        return 0


_watch = _Watch()


def rendered(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Any], generation_prompt: bool = False) -> str:
    """A chat as the tokenizer's template writes it.

    Raises:
        Refusal: when that takes too long or too much memory.
        Exception: whatever else the template raises.
    """
    return limited(
        lambda: str(tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=generation_prompt))
    )


def limited(render: Callable[[], str]) -> str:
    """What `render` returns, within the limits.

    Raises:
        Refusal: when they are reached.
    """
    thread, why = threading.get_ident(), ""
    try:
        _watch.start(thread)
        try:
            return render()
        finally:
            why = _watch.stop(thread)
    except _Stopped:
        raise Refusal(
            where="model.chat_template",
            found=f"a chat template that {why or 'does not end'}",
            allowed=f"at most {SECONDS:g} seconds and {GROWTH / 2**30:g} GiB for a chat",
            remedy="mend the template, or name another one in model.chat_template",
        ) from None
