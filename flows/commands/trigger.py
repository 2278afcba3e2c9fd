"""`posttrain trigger`: start a deployed run from a terminal, and follow it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.remote import prepare_remote
from flows.commands.shared import HOME, Json, Override, Recipe, console, show
from schemas.load import load_recipe

ServedStore = Annotated[str, typer.Option("--store", help="Store of a `posttrain serve`, where PREFECT_API_URL is not set.")]


def trigger(
    recipe: Recipe,
    overrides: Override = [],  # noqa: B006
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end, and end with its exit code.")] = False,
    store: ServedStore = HOME,
    as_json: Json = False,
) -> None:
    """Run the whole chain on the work pools of a Prefect server."""
    loaded = load_recipe(recipe, overrides)
    prepare_remote(store)
    from flows.deployed.paths import with_whole_paths
    from flows.deployed.remote_run import follow, start

    run = start(with_whole_paths(loaded, Path.cwd()))
    console().print(f"started {run.name}: {run.page}", highlight=False, markup=False, soft_wrap=True)
    if not wait:
        show({"flow_run": run.id, "name": run.name, "page": run.page}, as_json)
        return
    ended = follow(run, console())
    show({"flow_run": run.id, "name": run.name, "page": run.page, "state": ended.state, "message": ended.message}, as_json)
    if ended.summary and not as_json:
        typer.echo(ended.summary)
    sys.exit(ended.exit_code)
