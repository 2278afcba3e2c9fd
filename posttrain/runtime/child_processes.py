"""Child processes that do not outlive whoever started them, and import nothing from the folder in which they start."""

from __future__ import annotations

import ctypes
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PYTHON = (sys.executable, "-P")  # a module of the working directory, a `yaml.py` say, is not taken for the library
# Looked up here: between fork and exec a child of a threaded process should do as little as possible.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def child_environment() -> dict[str, str]:
    """The environment of this process, with the import path that it has; the working directory is on it only as the project's."""
    project, here = str(Path(__file__).resolve().parents[2]), os.getcwd()
    path = [place for place in sys.path if place and (place == project or os.path.realpath(place) != os.path.realpath(here))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}  # the second is for grandchildren


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Where the system can do it (Linux), have this process sent a signal when its parent dies, kill -9 included."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal_number)


def die_with_starter() -> None:
    """Have this process of `multiprocessing` end when the one that asked for it dies, kill -9 included, whoever forked it."""
    starter = multiprocessing.parent_process()
    if starter is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def child_of_this_process(signal_number: int = signal.SIGTERM) -> Callable[[], None]:
    """A `preexec_fn` that ends the child with a signal when this process, or the thread that starts it, dies."""
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(signal_number)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal_number)

    return prepare


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM to the process group that `process` leads, and SIGKILL to what is left of it after `seconds`."""
    try:
        _signal_group(process, signal.SIGTERM)
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second interrupt ends the waiting, not the killing
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], signal_number: int) -> None:
    try:
        os.killpg(process.pid, signal_number)
    except ProcessLookupError:
        return
