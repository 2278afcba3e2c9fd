"""`posttrain validate`: the rows of a data set against its contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.commands.shared import HOME, Json, show

Ranking = Literal["best_worst", "adjacent"]


def validate(
    data: Annotated[
        str | None, typer.Argument(help="Rows: a path, glob, URL, or sample://preferences.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for clean and quarantined rows.")] = Path("validated"),
    kind: Annotated[
        Literal["preferences", "feedback", "instructions", "prompts"],
        typer.Option("--as", help="What the rows are: pairs, answers with a label, conversations, or prompts without answers."),
    ] = "preferences",
    columns: Annotated[
        list[str] | None, typer.Option("--columns", metavar="KNOWN=YOURS", help="Name of a column in your rows; may be repeated.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="Column that is left out; may be repeated.")
    ] = None,
    ranking: Annotated[Ranking, typer.Option("--ranking", help="Pairs of several ranked answers.")] = "best_worst",
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="shapes|checks|CHECK", help="Print the shapes of rows, all checks, or one; and stop."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check pairs, feedback or conversations against their contract."""
    from dataclasses import replace

    from posttrain.data.checks.explain import check_in_words, checks_table
    from posttrain.data.explain import shapes_table
    from posttrain.data.sources import resolve
    from posttrain.data.validate import validate as check
    from schemas.data import Checks, Data

    if explain:
        tables = {"shapes": shapes_table, "checks": checks_table}
        typer.echo((tables[explain]() if explain in tables else check_in_words(explain)).rstrip())
        return
    if data is None:
        raise typer.BadParameter("name the rows, or say --explain shapes, or checks", param_hint="DATA")
    reading = _reading(columns or [], ignore or [], ranking)
    files = [replace(file, reading=reading) for file in resolve(data, "DATA", Path(HOME) / "cache")]
    check({kind: files}, Checks(), Data.model_fields["holdout"].default, out)
    show({"out": str(out), **json.loads((out / "summary.json").read_text())}, as_json)


def _reading(columns: list[str], ignore: list[str], ranking: Ranking) -> Any:
    """The options as a recipe would say them."""
    from schemas.errors import Refusal
    from schemas.reading import Reading

    named = [each.partition("=") for each in columns]
    for known, equals, yours in named:
        if not (known and equals and yours):
            raise Refusal(
                where="--columns",
                found=f"{known}{equals}{yours}",
                allowed="KNOWN=YOURS, such as prompt=question",
                remedy="write both names with = between them",
            )
    return Reading(columns={known: yours for known, _, yours in named}, ignore=tuple(ignore), ranking=ranking)
