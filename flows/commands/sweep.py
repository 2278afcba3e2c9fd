"""`posttrain sweep`: recipes that differ in one field each, and the frontier of reward against KL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import HOME, Json, StoreOption, answer, console, prepare, stdout_kept_for_result
from flows.console import show_sweep
from flows.interrupt import watched
from flows.terminal import PlainConsole
from posttrain.runtime.garbage import importing
from schemas.sweep import load_sweep
from schemas.text import visible_json


def sweep(
    document: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep in YAML.", show_default=False)],
    store: StoreOption = HOME,
    as_json: Json = False,
) -> None:
    """Run recipes that differ in one field each and draw reward against KL; nothing is registered."""
    loaded, planned = load_sweep(document)
    root = prepare(store)
    with stdout_kept_for_result() as result:
        with watched(root, console()):
            with importing():
                from flows.sweep import run_sweep

            report = run_sweep(loaded, planned, root)
        if as_json:
            answer.give(visible_json(report.model_dump_json(indent=1)), result)
        else:
            show_sweep(report, PlainConsole(file=result))
