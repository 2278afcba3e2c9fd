"""`posttrain compare`: two registered versions or runs side by side."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.commands.shared import HOME, Json, StoreOption, Tracking, answer, prepare
from flows.terminal import PlainConsole
from schemas.addresses import opened

Model = Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a run id.", show_default=False)]


def compare(a: Model, b: Model, store: StoreOption = HOME, tracking: Tracking = None, as_json: Json = False) -> None:
    """Show the numbers of both, the difference on prompts that both answered, and what decided otherwise."""
    root = prepare(store)
    from tasks.models import compare as compare_models

    document = compare_models(a, b, root, opened(tracking, "--tracking-uri") if tracking else None)
    if as_json:
        answer.give(json.dumps(document, indent=1))
    else:
        _show(document, PlainConsole())


def _show(document: dict[str, Any], console: Console) -> None:
    numbers = Table("number", "A", "B", title=f"A: {document['a']}\nB: {document['b']}", title_justify="left")
    for metric in document["metrics"]:
        numbers.add_row(metric["name"].replace("_", " "), _estimate(metric["a"]), _estimate(metric["b"]))
    console.print(numbers)
    _show_paired(document, console)
    if document["differs"]:
        fields = Table("decided otherwise by", "A", "B")
        for field in document["differs"]:
            fields.add_row(field["field"], _short(field["a"]), _short(field["b"]))
        console.print(fields)
    for sample in document["samples"]:
        console.print(f"\nprompt ({sample['gain']:+.3f} for B): {_short(sample['prompt'])}", highlight=False, markup=False)
        for side in ("a", "b"):
            console.print(f"  {side.upper()}: {_short(sample[side])}", highlight=False, markup=False, soft_wrap=True)


def _show_paired(document: dict[str, Any], console: Console) -> None:
    paired, prompts = document["b_against_a"], document["common_prompts"]
    if paired is None:
        said = f"{prompts} prompts in common; no rewards of one judge to compare: evaluate both with the same evaluation.judge"
    else:
        said = (
            f"B wins {_estimate(paired['win_rate'])} of {prompts} common prompts against A; "
            f"its reward is {_estimate(paired['reward'])} higher"
        )
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _estimate(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    interval = f" ({entry['interval'][0]:.4g} to {entry['interval'][1]:.4g})" if entry["interval"] else ""
    return f"{entry['value']:.4g}{interval}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
