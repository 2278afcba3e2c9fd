"""Run the chain in this process: preflight first, so that a refused input starts no server and writes no database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.server import ensure_server, private_folder
from posttrain.runtime.garbage import importing
from posttrain.runtime.progress import current, working
from posttrain.runtime.store import Store
from posttrain.training.caution import of_recipe
from schemas.recipe import Recipe
from schemas.results import RunReport
from tasks.chains import check_once, pinned


def run_inline(recipe: Recipe, store: Path) -> tuple[RunReport, Exception | None]:
    """Run one recipe.

    Returns:
        the report, and the error to end with: a refused promotion, what a stage raised after others had finished, or None.
    """
    [done] = run_each([recipe], store)
    return done


def run_each(recipes: Sequence[Recipe], store: Path) -> Iterator[tuple[RunReport, Exception | None]]:
    """Run recipes one after the other, under one Prefect server of their own or the user's where PREFECT_API_URL names one.

    Each is checked before the first one starts.

    Yields:
        the report of each, and the error to end with, as `run_inline` does.
    """
    Store(store).require_writable()
    recipes = [pinned(recipe, store) for recipe in recipes]
    with importing():  # of torch at the first look at a model, and of Prefect and MLflow
        with working("checking recipe and data"):
            for recipe in recipes:
                check_once(recipe, store)
        for warning in dict.fromkeys(each for recipe in recipes for each in of_recipe(recipe)):
            current().note(f"warning: {warning}")
        _make_prefect_home(store)
        with working("starting Prefect and MLflow"):
            ensure_server(_import_slow_parts)
    with _without_heartbeats():
        from flows.post_training import PromotionRefused, RunFailed, post_training

        for recipe in recipes:
            try:
                ended: tuple[RunReport, Exception | None] = post_training(recipe, str(store)), None
            except PromotionRefused as refused:
                ended = refused.report, refused
            except RunFailed as failed:
                ended = failed.report, failed.error
            yield ended


def _make_prefect_home(store: Path) -> None:
    """Prefect makes the last folder only; the one in the store is closed to others, the user's own is left as it is."""
    home = Path(os.environ.get("PREFECT_HOME", store))
    if home.parent == store:
        private_folder(home)
    else:
        home.mkdir(parents=True, exist_ok=True)


def _import_slow_parts() -> None:
    import flows.post_training  # noqa: F401


@contextmanager
def _without_heartbeats() -> Iterator[None]:
    """A heartbeat tells a server that a worker is alive. Each costs a second at the end of its flow, and no one listens here."""
    from prefect.context import SettingsContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    quiet = settings.model_copy(update={"flows": settings.flows.model_copy(update={"heartbeat_frequency": None})})
    with SettingsContext(profile=SettingsContext.get().profile, settings=quiet):  # type: ignore[union-attr]  # within a flow there is one
        yield
