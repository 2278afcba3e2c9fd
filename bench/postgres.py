"""A PostgreSQL server of one's own, for tests and benchmarks of deployed runs: in a folder, on a free port, gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.server import HOST, free_port
from flows.serving.services import Service

DEBIAN = Path("/usr/lib/postgresql")  # whose programs lie on no search path
USER, DATABASES = "postgres", ("prefect", "mlflow")
STOP_SECONDS = 20.0


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, or None where it is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next((path.parent for path in sorted(DEBIAN.glob("*/bin/initdb"), reverse=True)), None)


@dataclass(frozen=True)
class Databases:
    """A running server with a database each for Prefect and MLflow."""

    service: Service
    folder: Path
    port: int

    def address(self, database: str, driver: str) -> str:
        """As SQLAlchemy reads it; `driver` is `asyncpg` for Prefect and `psycopg2` for MLflow."""
        return f"postgresql+{driver}://{USER}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it, again where it was stopped or killed, and wait until it takes connections."""
        self.service.start()
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 60) -> None:
        """Wait until it takes connections."""
        end = time.monotonic() + seconds
        while subprocess.run(self._call("pg_isready", "--quiet"), check=False).returncode:
            if not self.service.is_alive() or time.monotonic() > end:
                raise self.service.failed("does not take connections")
            time.sleep(0.1)

    def query(self, database: str, text: str) -> str:
        """What psql prints for it, without heads and spaces."""
        command = self._call("psql", "--no-align", "--tuples-only", "--command", text, "--dbname", database)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def dump(self, database: str, path: Path) -> None:
        """Write a backup of a database."""
        subprocess.run(self._call("pg_dump", "--format=custom", f"--file={path}", database), check=True)

    def restore(self, database: str, path: Path) -> None:
        """Make a database anew from a backup."""
        subprocess.run(self._call("dropdb", "--force", database), check=True)
        subprocess.run(self._call("createdb", database), check=True)
        subprocess.run(self._call("pg_restore", "--exit-on-error", "--dbname", database, str(path)), check=True)

    def _call(self, program: str, *words: str) -> list[str]:
        folder = programs()
        assert folder
        return [str(folder / program), "--host", HOST, "--port", str(self.port), "--username", USER, *words]


@contextmanager
def databases() -> Iterator[Databases]:
    """A server inside; its files are those of an ordinary user, since it refuses to run as root.

    Raises:
        FileNotFoundError: where PostgreSQL is not installed.
    """
    found = programs()
    if found is None:
        raise FileNotFoundError("PostgreSQL's initdb, neither on PATH nor where Debian puts it")
    folder = Path(tempfile.mkdtemp(prefix="posttrain-postgres-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        data = folder / "data"
        initdb = [str(found / "initdb"), "--pgdata", str(data), "--username", USER, "--auth", "trust", "--no-sync"]
        subprocess.run([*_unprivileged(), *initdb], check=True, capture_output=True, cwd=folder)
        running = Databases(_service(found, folder, port := free_port()), folder, port)
        with _started(running):
            for name in DATABASES:
                subprocess.run(running._call("createdb", name), check=True, capture_output=True)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(running: Databases) -> Iterator[None]:
    """SIGINT is the stop that does not wait for clients."""
    try:
        running.start()
        yield
    finally:
        if running.service.process and running.service.is_alive():
            with suppress(ProcessLookupError):
                running.service.process.send_signal(signal.SIGINT)
        running.service.end(time.monotonic() + STOP_SECONDS)


def _service(found: Path, folder: Path, port: int) -> Service:
    settings = {"listen_addresses": HOST, "port": port, "unix_socket_directories": folder, "max_connections": 200, "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*_unprivileged(), str(found / "postgres"), "-D", str(folder / "data"), *options]
    return Service("PostgreSQL", command, dict(os.environ), folder / "server.log")


def _unprivileged() -> list[str]:
    """Before a command of root's: another user, who still gets the signal when the starter dies."""
    if os.getuid():
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=keep"]
