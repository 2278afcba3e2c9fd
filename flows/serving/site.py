"""The services of one machine: a Prefect server with its pages, an MLflow server, and a worker for each kind of pool."""

from __future__ import annotations

import os
from pathlib import Path

from flows import defaults
from flows.server import APP, HOST, private_folder
from flows.serving.services import Service
from posttrain.runtime.child_processes import PYTHON, child_environment
from tasks.tracking import ARTIFACTS, DATABASE

RECONCILE_SECONDS = 30


def prefect_service(root: Path, port: int) -> Service:
    """Its database and pages lie in the store; no page of another origin may call it from a browser."""
    home = root / "prefect"
    private_folder(home)
    address = f"http://{HOST}:{port}"
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'serve.db'}",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "pages"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT__SERVER_FINAL": "1",
    }
    options = ["--host", HOST, "--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "60"]
    return Service(
        "Prefect", [*PYTHON, "-m", "uvicorn", "--factory", APP, *options], _environment() | variables, _log(root, "prefect"),
        f"{address}/api/health",
    )  # fmt: skip


def mlflow_service(root: Path, port: int) -> Service:
    """It shows what runs of this store have logged before, too: the database and the folder of artifacts are theirs."""
    (root / DATABASE).parent.mkdir(parents=True, exist_ok=True)
    options = [
        "--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{root / DATABASE}",
        "--default-artifact-root", (root / ARTIFACTS).as_uri(), "--no-serve-artifacts",
    ]  # fmt: skip
    command = [*PYTHON, "-m", "flows.serving.guard", *PYTHON, "-m", "mlflow", "server", *options]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes of 250 MB, for jobs that we have none of
    return Service("MLflow", command, _environment() | variables, _log(root, "mlflow"), f"http://{HOST}:{port}/health")


def worker_service(root: Path, pool: str, addresses: dict[str, str], limit: int | None) -> Service:
    """A worker of a pool, which takes at most `limit` runs at once."""
    limited = ["--limit", str(limit)] if limit else []
    command = [*PYTHON, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}-worker"]
    variables = {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": addresses["prefect"],
        "MLFLOW_TRACKING_URI": addresses["mlflow"],
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    return Service(f"worker {pool}", [*command, *limited], _environment() | variables, _log(root, f"worker-{pool}"))


def reconciler_service(root: Path, addresses: dict[str, str]) -> Service:
    """It frees what dead runs hold, and has their chains start again."""
    command = [*PYTHON, "-m", "flows.cli", "reconcile", "--store", str(root), "--every", str(RECONCILE_SECONDS)]
    variables = {"PREFECT_HOME": str(root / "prefect"), "PREFECT_API_URL": addresses["prefect"]}
    return Service("reconciler", command, _environment() | variables, _log(root, "reconciler"))


def _environment() -> dict[str, str]:
    """This process's, but logs as Prefect has them: our entry points quieten it for terminals."""
    quiet = {name for name in defaults.DEFAULTS if name.startswith("PREFECT_LOGGING")}
    return {name: value for name, value in child_environment().items() if name not in quiet}


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.log"


def passwords() -> dict[str, str]:
    """What clients need where the user gave the server a password."""
    given = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    return {"PREFECT_API_AUTH_STRING": given} if given else {}
