"""`posttrain lineage`: from a model back to its data."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flows.commands.shared import HOME, Json, StoreOption, Tracking, answer, prepare, show
from schemas.addresses import opened


def lineage(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a run id.", show_default=False)],
    store: StoreOption = HOME,
    tracking: Tracking = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all files and numbers with what was built.")] = False,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="Print OpenLineage events as JSON instead.")] = False,
    as_json: Json = False,
) -> None:
    """Walk a model back to its data, the rejected rows and every stage on the way."""
    root = prepare(store)
    from tasks.lineage import events_of, lineage_of

    if openlineage:
        return answer.give(json.dumps(events_of(model, root, opened(tracking, "--tracking-uri") if tracking else None), indent=1))
    show(lineage_of(model, root, opened(tracking, "--tracking-uri") if tracking else None, verify), as_json)
