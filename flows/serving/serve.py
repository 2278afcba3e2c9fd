"""Run all services of one machine until interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from flows.server import HOST, free_port
from flows.serving.address import announced
from flows.serving.services import keep_running, stop
from flows.serving.site import mlflow_service, passwords, prefect_service, reconciler_service, worker_service
from posttrain.runtime.device import dtype_name
from posttrain.runtime.gpus import visible_gpus
from posttrain.runtime.locks import locked_if_free
from posttrain.runtime.store import Store
from schemas.errors import Refusal
from schemas.recipe import Compute, Recipe


def run_site(
    root: Path, recipes: dict[str, Recipe], ports: tuple[int, int], gpu_limit: int | None, say: Callable[[str], None]
) -> None:
    """Start servers, register everything, start workers, and keep them until interrupted.

    Raises:
        Refusal: when another process serves this store.
        ServiceFailed: when one of them does not come up.
    """
    Store(root).require_writable()
    root.mkdir(parents=True, exist_ok=True)
    with locked_if_free(root / "serve.lock") as ours:
        if not ours:
            raise Refusal(
                where="--store", found=f"{root}, which another `posttrain serve` serves", allowed="one for each store",
                remedy="use that one, or stop it",
            )  # fmt: skip
        _run(root, recipes, ports, gpu_limit, say)


def _run(
    root: Path, recipes: dict[str, Recipe], ports: tuple[int, int], gpu_limit: int | None, say: Callable[[str], None]
) -> None:
    prefect_port, mlflow_port = map(free_port, ports)
    pages = {"prefect": f"http://{HOST}:{prefect_port}", "mlflow": f"http://{HOST}:{mlflow_port}"}
    addresses = pages | {"prefect": f"{pages['prefect']}/api"}
    os.environ.update(passwords() | {"PREFECT_API_URL": addresses["prefect"]})
    limit = gpu_limit or max(1, len(visible_gpus()))
    services = [prefect_service(root, prefect_port), mlflow_service(root, mlflow_port)]
    try:
        say("starting Prefect and MLflow")
        for each in services:
            each.start()
        for each in services:
            each.wait_until_ready()
        say(f"registering {len(recipes)} recipes")
        _register(root, recipes, limit)
        workers = [worker_service(root, pool, addresses, count) for pool, count in (("cpu", None), ("gpu", limit))]
        for each in (*workers, reconciler_service(root, addresses)):
            services.append(each)
            each.start()
        with announced(root, addresses):
            say(f"Prefect: {pages['prefect']}/deployments   (start a recipe there, or: posttrain trigger RECIPE --store {root})")
            say(f"MLflow:  {pages['mlflow']}/#/experiments?workflowType=machine_learning")
            say("Ctrl-C stops all")
            keep_running(services, say)
    finally:
        say("stopping: training ends its step and writes a checkpoint; Ctrl-C again stops at once")
        _stop(services)


def _register(root: Path, recipes: dict[str, Recipe], limit: int) -> None:
    from flows.deployed import registration

    site = registration.Site(store=Store(root).address, dtype=dtype_name(Compute()), gpu_limit=limit)
    registration.register(site, registration.plan(site, recipes, {}))


def _stop(services: list) -> None:
    """Stop all, even when a person asks again: then at once."""
    try:
        stop(services)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop(services, seconds=0)
