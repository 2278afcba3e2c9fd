"""Processes that belong together end together, however their starter ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.serving.services import Service, ServiceFailed, keep_running, stop

SLEEPER = "import sys, time; print('up', flush=True); time.sleep(600)"
# A leader with a child of its own that ignores SIGTERM, as a worker with a trainer that does not end may be.
STUBBORN = """
import signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""
STARTER = """
import os, sys, time
from pathlib import Path
from flows.serving.services import Service
command = [sys.executable, "-m", "flows.serving.guard", sys.executable, "-c", sys.argv[2]]
Service("guarded", command, dict(os.environ), Path(sys.argv[1])).start()
time.sleep(600)
"""


def service(tmp_path: Path, code: str, name: str = "s") -> Service:
    """A started service that has said that it is up."""
    made = Service(name, [sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log")
    made.start()
    _wait(lambda: "up" in made.log.read_text())
    return made


def _wait(met, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def _members(group: int) -> list[int]:
    """Processes of a group that are no zombies."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in found.splitlines())
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


def test_stopping_ends_every_process_of_every_group(tmp_path):
    services = [service(tmp_path, SLEEPER, "a"), service(tmp_path, STUBBORN, "b")]
    groups = [each.process.pid for each in services]
    assert len(_members(groups[1])) == 2
    stop(services, seconds=1)
    assert [_members(group) for group in groups] == [[], []]


def test_a_service_that_ends_is_started_again_and_one_that_cannot_live_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.serving.services.SHORTEST_SECONDS", 0)
    alive, said = service(tmp_path, SLEEPER), []
    first = alive.process.pid
    failed: list[Exception] = []

    def keep() -> None:
        try:
            keep_running([alive], said.append)
        except ServiceFailed as error:
            failed.append(error)

    thread = threading.Thread(target=keep, daemon=True)
    # The thread that starts a process is its parent in the eyes of the system, and must outlive it.
    thread.start()
    os.kill(first, signal.SIGKILL)
    _wait(lambda: alive.process.pid != first and alive.is_alive())
    assert "is started again" in said[0]
    monkeypatch.setattr("flows.serving.services.SHORTEST_SECONDS", 1e9)
    os.kill(alive.process.pid, signal.SIGKILL)
    thread.join(timeout=30)
    assert "ends again and again" in str(failed[0])
    stop([alive], seconds=1)


def test_one_that_ends_before_it_is_ready_says_the_end_of_its_log(tmp_path):
    broken = Service(
        "broken", [sys.executable, "-c", "raise SystemExit('no port')"], dict(os.environ), tmp_path / "log", "http://127.0.0.1:9"
    )
    broken.start()
    with pytest.raises(ServiceFailed, match="no port"):
        broken.wait_until_ready()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_guarded_server_and_its_children_end_with_a_starter_that_is_killed(tmp_path, helpers):
    log = tmp_path / "log"
    server = STUBBORN.replace('print("up"', 'print("up", __import__("os").getpid()')
    with subprocess.Popen([sys.executable, "-c", STARTER, str(log), server], env=helpers.environment()) as starter:
        try:
            _wait(lambda: log.exists() and "\n" in log.read_text())
            group = int(log.read_text().split()[1])  # the server leads it
            assert len(_members(group)) == 2
        finally:
            starter.kill()
    _wait(lambda: not _members(group))
