"""A Prefect server for the length of one run, for people who have none.

Prefect starts one itself, but only after importing the whole server into this process, one import after the other. Started by
hand it comes up on the second core while this process imports the rest, and it dies with this process, however that ends.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from posttrain.runtime.child_processes import PYTHON, child_environment, child_of_this_process

HOST = "127.0.0.1"
APP = "prefect.server.api.server:create_app"
# What Prefect sets for the servers that it starts for one process: no pages, and only the services that such a run needs.
# No other page may call it from a browser: an origin that none has takes the place of `*`.
EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "https://nobody.invalid",
}  # fmt: skip
START_SECONDS = 120


def ensure_server(meanwhile: Callable[[], None]) -> None:
    """Have PREFECT_API_URL name a server: the user's own where it is set, else a new one that ends with this process.

    Must be called before Prefect is imported, which reads the variable then. `meanwhile` runs while the server starts.
    """
    if "PREFECT_API_URL" in os.environ:
        meanwhile()
        return
    port, password = free_port(), f"posttrain:{secrets.token_urlsafe(32)}"
    command = [
        *PYTHON,
        "-m",
        "uvicorn",
        "--factory",
        APP,
        "--host",
        HOST,
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    variables = child_environment() | EPHEMERAL | {"PREFECT_SERVER_API_AUTH_STRING": password}
    # Not SIGTERM: after one the server waits for the events of a client that is gone, and stays.
    dies = child_of_this_process(signal.SIGKILL)
    server = subprocess.Popen(command, env=variables, start_new_session=True, preexec_fn=dies)
    atexit.register(_stop, server)  # registered before Prefect's own, and so run after its last messages were sent
    os.environ["PREFECT_API_AUTH_STRING"] = password  # others on this machine can reach the port, and are turned away
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    meanwhile()
    _wait_until_healthy(server, f"http://{HOST}:{port}/api/health")


def private_folder(folder: Path) -> None:
    """Make Prefect's folder, whose database has parameters and logs of runs, or close one that is there, for this user alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()


def free_port(wanted: int = 0) -> int:
    """The wanted port, or another one where it is taken or none is wanted."""
    for port in (wanted, 0):
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind((HOST, port))
            except OSError:
                continue
            return int(free.getsockname()[1])
    raise RuntimeError("no port is free")


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(
                f"the Prefect server ended with exit code {server.returncode} before it was ready; its message is above"
            )
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - http of this machine
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the Prefect server was not ready after {START_SECONDS} s")
