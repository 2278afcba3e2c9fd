"""Chats as text: a template is a program of whoever made the tokenizer, so it runs under limits of time and memory."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from posttrain.data.messages import extra_of
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
    """A chat as the tokenizer's template writes it, with the calls of tools and the like that its messages have in `extra`.

    Raises:
        Refusal: when that takes too long or too much memory.
        jinja2.TemplateError: when the chat has what the template cannot write.
        Exception: whatever else the template raises.
    """
    messages, tools = unfolded(chat)
    _refuse_unwritten(tokenizer, messages, tools)
    return limited(
        lambda: str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=generation_prompt))
    )


def generated(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and 1 for each that stands in a block that the template marks with `{% generation %}`.

    Raises:
        Refusal: when that takes too long or too much memory.
    """
    messages, tools = unfolded(chat)
    found: dict[str, Any] = {}

    def render() -> str:
        made: Any = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
        found.update(made)
        return ""

    limited(render)
    return list(found["input_ids"]), list(found["assistant_masks"])


PLACES: Final = {
    "tools": re.compile(r"\btools\b"),
    "tool_calls": re.compile(r"\btool_calls\b"),
    "reasoning_content": re.compile(r"\b(?:reasoning_content|reasoning|thinking)\b"),
}
"""What a template that writes a field of a message, or the tools, has in its text."""


def _refuse_unwritten(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], tools: list[Any] | None) -> None:
    """Refuse as a template does what it has no place for, rather than lose it without a word."""
    held = {name for message in messages for name in PLACES if name in message} | ({"tools"} if tools else set())
    if not held:
        return
    given = tokenizer.chat_template
    template = "\n".join(given.values()) if isinstance(given, dict) else str(given)
    if missing := [name for name in sorted(held) if not PLACES[name].search(template)]:
        raise TemplateError(f"it has no place for {', '.join(missing)}, which `ignore` would leave out")


def unfolded(chat: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages as templates read them, and the conversation's tools; `schemas.conversations.MESSAGE` says what `extra` holds."""
    messages, tools = [], None
    for message in chat:
        more = extra_of(message)
        tools = more.pop("tools", tools)
        more.pop("weight", None)
        messages.append({name: value for name, value in message.items() if name != "extra"} | more)
    return messages, tools


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
