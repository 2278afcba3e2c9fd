"""`posttrain check`: what a recipe will take, and whether it can work; trains nothing."""

from __future__ import annotations

from flows.commands.shared import HOME, Json, Override, Recipe, StoreOption, console, prepare, show
from flows.live import TerminalProgress
from posttrain.runtime.garbage import importing
from posttrain.runtime.progress import reporting
from posttrain.runtime.store import Store
from schemas.load import load_recipe


def check(recipe: Recipe, overrides: Override = [], store: StoreOption = HOME, as_json: Json = False) -> None:  # noqa: B006
    """Validate recipe, inputs and model, and forecast memory and time; trains nothing."""
    loaded = load_recipe(recipe, overrides)
    root = prepare(store)
    with importing():
        from flows.check import examine

    with TerminalProgress(console()) as progress, reporting(progress):
        found = examine(loaded, Store(root))
    show(found, as_json)
