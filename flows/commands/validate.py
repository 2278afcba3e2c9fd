"""`posttrain validate`: preference pairs against the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import HOME, Json, show


def validate(
    data: Annotated[
        str, typer.Argument(help="Preference pairs: a path, glob, URL, or sample://preferences.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for clean and quarantined rows.")] = Path("validated"),
    as_json: Json = False,
) -> None:
    """Check preference pairs against the contract."""
    from posttrain.data.sources import resolve
    from posttrain.data.validate import validate as check_pairs
    from schemas.data import Checks, Data

    check_pairs(resolve(data, "DATA", Path(HOME) / "cache"), None, Checks(), Data.model_fields["holdout"].default, out)
    show({"out": str(out), **json.loads((out / "summary.json").read_text())}, as_json)
