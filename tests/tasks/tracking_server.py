"""An MLflow server that a test starts, kills and starts again at one address, and waiting until something is so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from flows.server import free_port
from tasks import availability


@contextmanager
def tracking_server(folder: Path, variables: Mapping[str, str]) -> Iterator[SimpleNamespace]:
    """`address`, `start()`, which returns when it answers, and `kill()`; what it was told lies in the folder."""
    port, running = free_port(), list[subprocess.Popen]()
    address = f"http://127.0.0.1:{port}"

    def start() -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
                   f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
        running.append(subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True))  # fmt: skip
        until(lambda: availability.problem(address) is None, 120)

    def kill() -> None:
        os.killpg(running[-1].pid, signal.SIGKILL)
        running.pop().wait()

    try:
        yield SimpleNamespace(address=address, start=start, kill=kill)
    finally:
        if running:
            kill()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits until the condition holds."""
    end = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        end.wait(0.05)
    raise AssertionError("it did not happen")
