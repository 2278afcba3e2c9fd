"""The text of web pages, extracted in a process of its own: one that hangs or crashes the parser costs itself alone."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from typing import Final

from posttrain.runtime.child_processes import PYTHON, child_environment, child_of_this_process

CHILD: Final = "posttrain.data.containers.extraction"
LENGTH: Final = struct.Struct("<I")
READY: Final = b"r"
TEXT, LOST = b"t", b"l"  # the first byte of an answer, before a text or the reason why there is none
STARTS_WITHIN: Final = 120.0  # seconds: imports on a busy machine


class PageLost(ValueError):
    """A page without a text, with the machine-readable reason."""


class Extractor:
    """A child process that extracts one page after the other. Started with the first page, and again after it was ended.

    Args:
        name: `trafilatura` or `resiliparse`.
        seconds: that a page may take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._seconds = name, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Extractor:
        """Nothing is started yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the child."""
        self._end()

    def text(self, page: bytes, charset: str | None) -> str:
        """The text of a page, empty where it has none.

        Raises:
            PageLost: `page_timeout`, `page_crashed` or `page_unreadable`.
        """
        child = self._child or self._start()
        asked = (charset or "").encode()[:255]
        try:
            self._send(child, LENGTH.pack(len(asked)) + asked + LENGTH.pack(len(page)) + page)
            answer = self._answer(child, self._seconds)
        except TimeoutError:
            self._end()
            raise PageLost(f"page_timeout: over {self._seconds:g} seconds") from None
        except (OSError, EOFError):
            self._end()
            raise PageLost("page_crashed: the extractor ended on it") from None
        if not answer.startswith(TEXT):
            raise PageLost(f"page_unreadable: {answer[1:].decode(errors='replace')}")
        return answer[1:].decode()

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [*PYTHON, "-m", CHILD, self._name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(),
            preexec_fn=child_of_this_process(),
        )  # fmt: skip
        try:
            ready = self._answer(self._child, STARTS_WITHIN)
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{self._name} does not start") from error
        assert ready == READY
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe
                pipe.close()

    @staticmethod
    def _send(child: subprocess.Popen[bytes], message: bytes) -> None:
        assert child.stdin
        view = memoryview(message)
        while view:
            view = view[os.write(child.stdin.fileno(), view) :]

    def _answer(self, child: subprocess.Popen[bytes], seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._read(child, LENGTH.size, deadline))
        return self._read(child, length, deadline)

    @staticmethod
    def _read(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
        assert child.stdout
        found = bytearray()
        while len(found) < count:
            if not select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(child.stdout.fileno(), count - len(found))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)
