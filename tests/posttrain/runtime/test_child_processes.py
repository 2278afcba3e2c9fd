"""Children end with their parent, and groups when they are told to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from posttrain.runtime.child_processes import stop

# Starts a child that sleeps, tells its number, and sleeps itself.
PARENT = """
import subprocess, time
from posttrain.runtime.child_processes import child_of_this_process
print(subprocess.Popen(["sleep", "60"], preexec_fn=child_of_this_process()).pid, flush=True)
time.sleep(60)
"""
# The same by a pool, whose processes are forked off another one, which lives as long as they do.
POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from posttrain.runtime.child_processes import die_with_starter
pool = ProcessPoolExecutor(1, multiprocessing.get_context("{}"), die_with_starter)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(60)
"""
# Says that it is ready; ends at SIGTERM, or ignores it.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.{}); print(flush=True); time.sleep(60)"


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
@pytest.mark.parametrize("program", [PARENT, POOL.format("forkserver"), POOL.format("spawn")])
def test_a_child_dies_with_its_parent_even_by_sigkill(program):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(child)


@pytest.mark.parametrize(
    ("handler", "seconds", "ended_by"), [("SIG_DFL", 30.0, signal.SIGTERM), ("SIG_IGN", 0.2, signal.SIGKILL)]
)
def test_a_group_is_asked_first_and_killed_when_its_time_is_over(handler, seconds, ended_by):
    command = [sys.executable, "-c", STUBBORN.format(handler)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        started = time.monotonic()
        stop(process, seconds)
        assert time.monotonic() - started < 10
    assert process.returncode == -ended_by
