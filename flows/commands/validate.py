"""`posttrain validate`: the rows of data sets against their contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.commands.shared import HOME, Json, Override, console, show
from flows.live import TerminalProgress
from posttrain.runtime.progress import current, reporting
from schemas.errors import Refusal
from schemas.load import apply_overrides, load_recipe, validated

if TYPE_CHECKING:
    from posttrain.data.sources import SourceFile
    from schemas.data import Data

Ranking = Literal["best_worst", "adjacent"]
Rows = Annotated[str | None, typer.Argument(help="Rows: a path, glob, URL, or sample://preferences.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Folder for clean and quarantined rows, and the page.")]
Kind = Annotated[
    Literal["preferences", "feedback", "instructions", "prompts"],
    typer.Option("--as", help="What the rows are: pairs, answers with a label, conversations, or prompts without answers."),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe in YAML: its data sets, checks and holdout, in place of DATA.")
]
Holdout = Annotated[float | None, typer.Option("--holdout", help="Part of the prompts to hold out.")]
Model = Annotated[str | None, typer.Option("--model", help="Folder or hub id of a model: also count its tokens.")]
MaxLength = Annotated[int, typer.Option("--max-length", min=2, help="Token limit to count rows against.")]
Columns = Annotated[
    list[str] | None, typer.Option("--columns", metavar="KNOWN=YOURS", help="Name of a column in your rows; may be repeated.")
]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="Column that is left out; may be repeated.")]
Ranked = Annotated[Ranking, typer.Option("--ranking", help="Pairs of several ranked answers.")]
Explain = Annotated[
    str | None,
    typer.Option("--explain", metavar="shapes|checks|CHECK", help="Print the shapes of rows, all checks, or one; and stop."),
]


def validate(
    data: Rows = None,
    out: Out = Path("validated"),
    kind: Kind = "preferences",
    recipe: RecipeFile = None,
    overrides: Override = [],  # noqa: B006
    holdout: Holdout = None,
    model: Model = None,
    max_length: MaxLength = 1024,
    columns: Columns = None,
    ignore: Ignore = None,
    ranking: Ranked = "best_worst",
    explain: Explain = None,
    as_json: Json = False,
) -> None:
    """Check pairs, feedback, conversations or prompts against their contracts."""
    if explain:
        typer.echo(_explained(explain))
        return
    if (data is None) == (recipe is None):
        found = "neither DATA nor --recipe" if data is None else "DATA and --recipe"
        raise Refusal(where="posttrain validate", found=found, allowed="one of them", remedy="name the rows, or a recipe")
    spec = load_recipe(recipe, overrides).data if recipe else _as_recipe(kind, str(data), columns, ignore, ranking, overrides)
    if holdout is not None:
        spec = validated(type(spec), {**spec.model_dump(), "holdout": holdout}, "--holdout")
    with TerminalProgress(console()) as progress, reporting(progress):
        given = _files(spec, "DATA" if data else None)
        summary = _checked(given, spec, out, model, max_length, as_json)
    if as_json:
        show(summary, as_json)
    else:
        _tell(summary)


def _explained(asked: str) -> str:
    """The table of shapes, that of checks, or one check in words."""
    from posttrain.data.checks.explain import check_in_words, checks_table
    from posttrain.data.explain import shapes_table

    tables = {"shapes": shapes_table, "checks": checks_table}
    return (tables[asked]() if asked in tables else check_in_words(asked)).rstrip()


def _as_recipe(
    kind: str, data: str, columns: list[str] | None, ignore: list[str] | None, ranking: Ranking, overrides: list[str]
) -> Data:  # fmt: skip
    """What a recipe would say: `--set data.checks.max_drop_rate=0.5` is a field of it."""
    from schemas.data import ValidateCommand

    source = {"path": data, "columns": _named(columns or []), "ignore": ignore or [], "ranking": ranking}
    document = apply_overrides({"data": {kind: source}}, overrides)
    return validated(ValidateCommand, document, "--set").data


def _named(columns: list[str]) -> dict[str, str]:
    """The option as a recipe would say it."""
    named = [each.partition("=") for each in columns]
    for known, equals, yours in named:
        if not (known and equals and yours):
            raise Refusal(
                where="--columns",
                found=f"{known}{equals}{yours}",
                allowed="KNOWN=YOURS, such as prompt=question",
                remedy="write both names with = between them",
            )
    return {known: yours for known, _, yours in named}


def _files(spec: Data, where: str | None) -> dict[str, list[SourceFile]]:
    """The files of each data set that there is."""
    from posttrain.data.sources import resolve
    from schemas.data import CONTRACTS

    named = {name: sources for name in CONTRACTS if (sources := getattr(spec, name)) is not None}
    if not named:
        raise Refusal(
            where="data", found="no rows with a contract", allowed=", ".join(CONTRACTS), remedy="a corpus has `posttrain filter`"
        )
    return {name: resolve(sources, where or f"data.{name}", Path(HOME) / "cache") for name, sources in named.items()}


def _checked(
    given: Mapping[str, list[SourceFile]], spec: Data, out: Path, model: str | None, max_length: int, as_json: bool
) -> dict[str, Any]:  # fmt: skip
    """The summary of all data sets. The page is written too where they are refused."""
    from posttrain.data.sources import resolve
    from posttrain.data.validate import empty_splits
    from posttrain.data.validate import validate as check
    from posttrain.report.validation import write_validation

    sets = spec.checks.decontaminate
    against = resolve(sets, "data.checks.decontaminate", Path(HOME) / "cache") if sets else ()
    try:
        check(given, spec.checks, spec.holdout, out, against, spec.weights)
    except Refusal as refusal:
        if refusal.details:
            page = write_validation(out, {}, refusal)
            refusal.details["report"] = str(page)
            if not as_json:
                _tell(refusal.details)
        raise
    tokens = _tokens(given, out, model, max_length) if model else {}
    page = write_validation(out, tokens, None)
    summary = json.loads((out / "summary.json").read_text())
    for name, each in summary.items():
        for sentence in empty_splits(each):
            current().note(f"data.{name}: {sentence}")
    return {"out": str(out), "report": str(page), **{name: each | _of(tokens, name) for name, each in summary.items()}}


def _of(tokens: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"tokens": tokens[name]} if name in tokens else {}


def _tokens(given: Mapping[str, list[SourceFile]], out: Path, model: str, max_length: int) -> dict[str, Any]:
    """How many tokens the clean rows of each data set have."""
    import polars as pl

    from posttrain.pipeline.token_view import token_view, tokenizer_of

    tokenizer = tokenizer_of(model, "--model")
    tables = {name: pl.scan_parquet(out / f"{name}.parquet", glob=False) for name in given}
    return {name: token_view(table, tokenizer, max_length, name) for name, table in tables.items()}


def _tell(found: dict[str, Any]) -> None:
    """Tables for a person, on stdout."""
    from flows.console import show_validation
    from flows.terminal import PlainConsole

    show_validation(found, PlainConsole())
