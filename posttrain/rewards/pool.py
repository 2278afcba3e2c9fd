"""Calls of a reward function in processes of their own: one that hangs or dies is killed, and takes nothing else with it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.rewards.calls import TooLong
from posttrain.runtime.child_processes import PYTHON, child_environment

STARTING = 120.0  # seconds in which a worker has to import the function
PER_RESPONSE = 16_384  # bytes of an answer per response: beyond it a worker writes what is no answer


class Died(Exception):
    """A worker ended, or wrote what is no answer."""


class Raised(Exception):
    """The function raised; the words are its own."""


@dataclass
class Worker:
    """One process with the function; started when it is first asked, and again after it was killed."""

    name: str
    field: str
    memory: int
    process: subprocess.Popen[bytes] | None = None

    def ask(self, given: Sequence[Any], count: int, timeout: float) -> list[Any]:
        """`[reward, extracted]` of each of `count` responses.

        Raises:
            TooLong: when there is no answer within `timeout` seconds.
            Died: when the process ends first.
            Raised: when the function does.
        """
        try:
            process = self.process or self._started()
            answer = _exchange(process, json.dumps(given, default=str).encode() + b"\n", PER_RESPONSE * (count + 1), timeout)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise Raised(str(answer["error"]))
        return list(answer["verdicts"])

    def _started(self) -> subprocess.Popen[bytes]:
        """A process that has imported the function, which is no part of the time that a call may take."""
        command = [*PYTHON, "-m", "posttrain.rewards.worker", self.name, self.field, str(self.memory)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(), start_new_session=True
        )
        _exchange(self.process, b"", PER_RESPONSE, STARTING)
        return self.process

    def close(self) -> None:
        """Kill the process and all that it started in its session."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.process = None


@dataclass
class Pool:
    """Workers that are asked side by side: each is lent to one thread at a time."""

    workers: Sequence[Worker]
    free: queue.SimpleQueue[Worker] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        for worker in self.workers:
            self.free.put(worker)

    def ask(self, given: Sequence[Any], count: int, timeout: float) -> list[Any]:
        """As `Worker.ask`, by the next that is free."""
        worker = self.free.get()
        try:
            return worker.ask(given, count, timeout)
        finally:
            self.free.put(worker)

    def close(self) -> None:
        """End all of them."""
        for worker in self.workers:
            worker.close()


def _exchange(process: subprocess.Popen[bytes], line: bytes, most: int, timeout: float) -> Mapping[str, Any]:
    """Write a line and read one, whichever the process is ready for: neither side may wait for the other for ever."""
    assert process.stdin
    assert process.stdout
    ends, answer = time.monotonic() + timeout, b""
    given, asked = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(given, False)
    with selectors.DefaultSelector() as selector:
        if line:
            selector.register(given, selectors.EVENT_WRITE)
        selector.register(asked, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            ready = {key.fd for key, _ in selector.select(max(0.0, ends - time.monotonic()))}
            if not ready:
                raise TooLong(f"no answer within {timeout:g} s")
            if given in ready:
                line = _written(given, line)
                if not line:
                    selector.unregister(given)
            if asked in ready:
                part = os.read(asked, 1 << 16)
                answer += part
                if not part or len(answer) > most:
                    raise Died("its process wrote more than an answer" if part else f"its process {_end(process)}")
    return _parsed(answer)


def _written(stream: int, line: bytes) -> bytes:
    """What is left to write."""
    try:
        return line[os.write(stream, line[: 1 << 16]) :]
    except BrokenPipeError:
        return b""  # its end is seen where its answer is read


def _parsed(answer: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        raise Died("its process wrote what is no answer") from None
    if not isinstance(found, dict) or not ("error" in found or isinstance(found.get("verdicts"), list)):
        raise Died("its process wrote what is no answer")
    return found


def _end(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "closed its output"
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
