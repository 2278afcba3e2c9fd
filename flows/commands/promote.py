"""`posttrain promote` and `posttrain rollback`: the champion by a person's decision, with the reason kept."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shared import HOME, StoreOption, Tracking, prepare
from schemas.addresses import opened

Because = Annotated[str, typer.Option("--because", help="Why; it is kept with the version.", show_default=False)]


def promote(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS.", show_default=False)],
    because: Because,
    store: StoreOption = HOME,
    tracking: Tracking = None,
) -> None:
    """Make a registered version champion, whatever its numbers are."""
    root = prepare(store)
    from tasks.models import promote as promote_version

    typer.echo(promote_version(model, because, root, opened(tracking, "--tracking-uri") if tracking else None).sentence)


def rollback(
    name: Annotated[str, typer.Argument(help="Registered model.", show_default=False)],
    because: Because,
    store: StoreOption = HOME,
    tracking: Tracking = None,
) -> None:
    """Make the version champion again that the current champion replaced."""
    root = prepare(store)
    from tasks.models import roll_back

    typer.echo(roll_back(name, because, root, opened(tracking, "--tracking-uri") if tracking else None).sentence)
