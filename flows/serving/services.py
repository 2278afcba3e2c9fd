"""Processes that belong together: started one after the other, kept running, and stopped so that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.runtime.child_processes import child_of_this_process

READY_SECONDS = 180.0
GRACE_SECONDS = 90.0  # for a training step in hand and its checkpoint
SHORTEST_SECONDS = 10.0  # that a service must have lived to be started again
LOG_LINES = 20  # of it, in an error
POLL_SECONDS = 0.2


class ServiceFailed(RuntimeError):
    """A service did not come up, or ends again and again; the end of its log is in the message."""


@dataclass
class Service:
    """One process, which leads a group of its own."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    health: str | None = None
    """Address that answers once it is ready."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    began: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start it; its group ends with this process, however that ends."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True, preexec_fn=child_of_this_process(),
            )  # fmt: skip
        self.began = time.monotonic()

    def wait_until_ready(self) -> None:
        """Wait for its address to answer.

        Raises:
            ServiceFailed: when it ends before, or takes too long.
        """
        while self.health and not _answers(self.health):
            if not self.is_alive():
                raise self.failed("ended before it was ready")
            if time.monotonic() - self.began > READY_SECONDS:
                raise self.failed(f"was not ready after {READY_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def is_alive(self) -> bool:
        """Whether its leader runs."""
        return self.process is not None and self.process.poll() is None

    def failed(self, how: str) -> ServiceFailed:
        """An error with the end of the log."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return ServiceFailed(f"{self.name} {how}; the end of {self.log}:\n" + "\n".join(lines))

    def ask_to_stop(self) -> None:
        """SIGTERM to its leader, which ends its own."""
        if self.process and self.is_alive():
            self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for its whole group until `deadline`, and kill what is left."""
        if self.process is None:
            return
        while time.monotonic() < deadline and _group_lives(self.process):
            time.sleep(POLL_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def keep_running(services: Sequence[Service], say: Callable[[str], None]) -> None:
    """Start again what ends, until interrupted.

    Raises:
        ServiceFailed: when one ends at once.
    """
    while True:
        for each in services:
            if not each.is_alive():
                if time.monotonic() - each.began < SHORTEST_SECONDS:
                    raise each.failed("ends again and again")
                say(f"{each.name} has ended, and is started again; its log is {each.log}")
                each.end(time.monotonic() + GRACE_SECONDS)  # its runs end with it, after a checkpoint
                each.start()
        time.sleep(1)


def stop(services: Sequence[Service], seconds: float = GRACE_SECONDS) -> None:
    """Stop them, the last one first: workers report to servers how their runs end."""
    deadline = time.monotonic() + seconds
    for each in reversed(services):
        each.ask_to_stop()
        each.end(deadline)


def _group_lives(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()  # a zombie counts as a member
    try:
        os.killpg(leader.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - http of this machine
            return True
    except (urllib.error.URLError, OSError):
        return False
