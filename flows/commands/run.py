"""`posttrain run`: the whole chain in this process."""

from __future__ import annotations

from flows.commands.shared import HOME, Json, Override, Recipe, StoreOption, answer, console, prepare, stdout_kept_for_result
from flows.console import show_report
from flows.interrupt import watched
from flows.terminal import PlainConsole
from posttrain.runtime.garbage import importing
from schemas.load import load_recipe
from schemas.text import visible_json


def run(recipe: Recipe, overrides: Override = [], store: StoreOption = HOME, as_json: Json = False) -> None:  # noqa: B006
    """Run the whole chain in this process; finished stages are reused."""
    loaded = load_recipe(recipe, overrides)
    root = prepare(store)
    with stdout_kept_for_result() as result:
        with watched(root, console()):
            with importing():
                from flows.inline import run_inline

            report, error = run_inline(loaded, root)
        if as_json:
            answer.give(visible_json(report.model_dump_json(indent=1)), result)
        else:
            show_report(report, PlainConsole(file=result))
    if error:
        raise error
