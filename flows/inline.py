"""Run the chain in this process: preflight first, so that a refused input starts no server and writes no database."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flows.console import TerminalProgress
from posttrain.chain import Chain
from posttrain.preflight import preflight
from posttrain.progress import reporting
from posttrain.store import Store
from schemas.recipe import Recipe
from schemas.results import RunReport


def run_inline(recipe: Recipe, store: Path, console: Console) -> tuple[RunReport, bool]:
    """Run a recipe under Prefect's ephemeral server, or the user's server where PREFECT_API_URL names one.

    Returns:
        the report, and whether promotion was refused.
    """
    preflight(Chain(recipe, Store(store)))
    Path(os.environ.get("PREFECT_HOME", store)).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    console.print("starting Prefect and MLflow (about ten seconds)", style="dim")
    with prefect_server(), TerminalProgress(console) as progress, reporting(progress):
        from flows.post_training import PromotionRefused, post_training

        try:
            return post_training(recipe, str(store)), False
        except PromotionRefused as refused:
            return refused.report, True


@contextmanager
def prefect_server() -> Iterator[None]:
    """Start Prefect's ephemeral server while this process imports the rest, and switch off what only workers need."""
    from prefect.context import SettingsContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    starting = threading.Thread(target=server.start, kwargs={"timeout": 120}, daemon=True)
    starting.start()
    import posttrain.device  # noqa: F401

    starting.join()
    # A heartbeat tells a server that a worker is alive; each costs a second at the end of its flow, and no one listens here.
    quiet = settings.model_copy(update={"flows": settings.flows.model_copy(update={"heartbeat_frequency": None})})
    with SettingsContext(profile=SettingsContext.get().profile, settings=quiet):  # type: ignore[union-attr]
        yield
