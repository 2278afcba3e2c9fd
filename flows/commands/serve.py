"""`posttrain serve`: servers, workers and deployments of one machine in one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.deploy import RECIPES, offered
from flows.commands.shared import HOME, StoreOption, console, prepare
from posttrain.runtime.interruption import owned_signals


def serve(
    store: StoreOption = HOME,
    folder: Annotated[Path, typer.Option("--recipes", help="Folder whose recipes can be started in the UI.")] = RECIPES,
    port: Annotated[int, typer.Option("--port", help="Of Prefect's pages; another where it is taken.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Of MLflow's pages; another where it is taken.")] = 5000,
    gpu_limit: Annotated[
        int | None, typer.Option("--gpu-limit", min=1, help="Stages that train at once.", show_default="one per GPU")
    ] = None,
) -> None:
    """Start Prefect and MLflow with their pages, a worker for each pool, and register all; Ctrl-C stops all of it."""
    recipes = offered(folder, [])
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)  # of other servers
    root = prepare(store)
    from flows.serving.serve import run_site

    out = console()

    def say(line: str) -> None:
        out.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        with owned_signals():
            run_site(root, recipes, (port, mlflow_port), gpu_limit, say)
    except KeyboardInterrupt:
        say("stopped")
