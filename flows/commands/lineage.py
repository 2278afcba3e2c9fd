"""`posttrain lineage`: from a model back to its data."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import HOME, Json, StoreOption, Tracking, prepare, show
from schemas.addresses import opened


def lineage(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a run id.", show_default=False)],
    store: StoreOption = HOME,
    tracking: Tracking = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all files and numbers with what was built.")] = False,
    as_json: Json = False,
) -> None:
    """Walk a model back to its data, the rejected rows and every stage on the way."""
    root = prepare(store)
    from tasks.lineage import lineage_of

    show(lineage_of(model, root, opened(tracking, "--tracking-uri") if tracking else None, verify), as_json)
