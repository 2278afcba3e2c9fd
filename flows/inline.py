"""Run the chain in this process: preflight first, so that a refused input starts no server and writes no database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from flows.console import TerminalProgress
from flows.server import ensure_server
from posttrain.caution import of_recipe
from posttrain.preflight import preflight
from posttrain.progress import reporting
from posttrain.store import Store
from schemas.recipe import Recipe
from schemas.results import RunReport
from tasks.chains import new_chain, pinned


def run_inline(recipe: Recipe, store: Path, console: Console) -> tuple[RunReport, bool]:
    """Run one recipe.

    Returns:
        the report, and whether promotion was refused.
    """
    [done] = run_each([recipe], store, console)
    return done


def run_each(recipes: Sequence[Recipe], store: Path, console: Console) -> Iterator[tuple[RunReport, bool]]:
    """Run recipes one after the other, under one Prefect server of their own or the user's where PREFECT_API_URL names one.

    Each is checked before the first one starts.

    Yields:
        the report of each, and whether promotion was refused.
    """
    recipes = [pinned(recipe, store) for recipe in recipes]
    for recipe in recipes:
        preflight(new_chain(recipe, Store(store)))
    for warning in dict.fromkeys(each for recipe in recipes for each in of_recipe(recipe)):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    Path(os.environ.get("PREFECT_HOME", store)).mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    console.print("starting Prefect and MLflow (about ten seconds)", style="dim")
    ensure_server(_import_slow_parts)
    with TerminalProgress(console) as progress, reporting(progress), _without_heartbeats():
        from flows.post_training import PromotionRefused, post_training

        for recipe in recipes:
            try:
                yield post_training(recipe, str(store)), False
            except PromotionRefused as refused:
                yield refused.report, True


def _import_slow_parts() -> None:
    import flows.post_training  # noqa: F401


@contextmanager
def _without_heartbeats() -> Iterator[None]:
    """A heartbeat tells a server that a worker is alive. Each costs a second at the end of its flow, and no one listens here."""
    from prefect.context import SettingsContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    quiet = settings.model_copy(update={"flows": settings.flows.model_copy(update={"heartbeat_frequency": None})})
    with SettingsContext(profile=SettingsContext.get().profile, settings=quiet):  # type: ignore[union-attr]
        yield
