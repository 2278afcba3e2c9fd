"""`posttrain filter`: a corpus alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import HOME, Json, show
from schemas.errors import Refusal


def filter_(
    data: Annotated[str, typer.Argument(help="Documents: a path, glob, URL, or sample://corpus.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for kept, rejected and quarantined documents.", show_default=False)],
    preset: Annotated[str, typer.Option("--preset", help="Named set of rules: gopher or none.")] = "gopher",
    as_json: Json = False,
) -> None:
    """Filter a corpus alone."""
    from posttrain.data.sources import resolve
    from posttrain.filters.corpus import filter_corpus
    from schemas.data import Data
    from schemas.filter_presets import PRESETS
    from schemas.filtering import Filtering

    if preset not in PRESETS:
        raise Refusal(where="--preset", found=repr(preset), allowed=", ".join(sorted(PRESETS)), remedy="choose one of these")
    rules = Filtering.model_validate({"preset": preset})
    files = resolve(data, "DATA", Path(HOME) / "cache")
    numbers = filter_corpus(files, rules, Data.model_fields["holdout"].default, out)
    reasons = json.loads((out / "summary.json").read_text())["reasons"]
    show({"out": str(out), **numbers, "reasons": reasons}, as_json)
