"""`posttrain models`: what is registered, and which version is champion."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.commands.shared import HOME, Json, StoreOption, Tracking, answer, prepare
from flows.terminal import PlainConsole
from schemas.addresses import opened


def models(
    name: Annotated[str | None, typer.Argument(help="One registered model; default is all.", show_default=False)] = None,
    store: StoreOption = HOME,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """List registered versions, the newest first, with their aliases and how the champion came to be it."""
    root = prepare(store)
    from tasks.models import registered

    versions = registered(root, opened(tracking, "--tracking-uri") if tracking else None, name)
    if as_json:
        answer.give(json.dumps(versions, indent=1))
        return
    table = Table("version", "alias", "registered", "recipe", "method", "gates", "last move")
    for version in versions:
        table.add_row(*_cells(version))
    PlainConsole().print(table)


def _cells(version: dict[str, Any]) -> list[str]:
    passed = sum("passed" in said for said in version["gates"].values())
    gates = f"{passed} of {len(version['gates'])} passed" if version["gates"] else "-"
    moves = version["moves"]
    last = f"{moves[-1]['by']}: {moves[-1]['because']}" if moves else "-"
    plain = (version["model"].removeprefix("models:/"), ", ".join(version["aliases"]) or "-", version["registered"])
    return [*plain, version["recipe"], version["method"], gates, last]
