"""`posttrain report`: the page of a finished run, written anew."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import HOME, StoreOption, prepare


def report(
    run: Annotated[str, typer.Argument(help="Run id, as `posttrain run` prints it.", show_default=False)],
    store: StoreOption = HOME,
) -> None:
    """Write report.html of a finished run anew from what lies in the store, and print where it is."""
    root = prepare(store)
    from tasks.report import rebuild

    typer.echo(rebuild(root, run))
