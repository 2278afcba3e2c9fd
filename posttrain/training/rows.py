"""What a training stage read: rows, examples and those left out with their reasons, and the rows behind validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from posttrain.data.choose import by_source
from posttrain.data.encode import Encoded
from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.data.packing import Example
from posttrain.runtime.distributed import is_main
from posttrain.runtime.progress import Progress
from posttrain.runtime.writing import write_atomically
from schemas.data import Checks

FILE = "rows.json"
TEMPLATE = "the chat template refuses the conversation"
TEMPLATE_REMEDY = "set model.chat_template to one that takes them"
COUNTS = ("rows", "left_out", "prompts_cut", "completions_cut")


def record_training(out: Path, field: str, encoded: Encoded) -> None:
    """Keep how many training rows became examples; rows = examples + left out."""
    reasons = reasons_of(encoded.left_out)
    numbers = {
        "rows": len(encoded.examples) + len(encoded.left_out),
        "examples": len(encoded.examples),
        "left_out": len(encoded.left_out),
        "prompts_cut": encoded.prompts_cut,
        "completions_cut": encoded.completions_cut,
    }
    _record(out, {"data": field.removeprefix("data."), **numbers, "reasons": reasons})


def record_prompts(out: Path, field: str, rows: int, rendered: int, checks: Checks) -> None:
    """The same of prompts that are answered rather than trained on: those are left out that the chat template refuses.

    Raises:
        Refusal: when these are more than `data.checks.max_drop_rate` allows.
    """
    reasons = {TEMPLATE: rows - rendered} if rendered < rows else {}
    numbers = {"rows": rows, "examples": rendered, "left_out": rows - rendered}
    _record(out, {"data": field.removeprefix("data."), **numbers, "reasons": reasons})
    refuse_left_out(reasons, rows, field, "alignment", checks, remedy=TEMPLATE_REMEDY)


def record_validation(
    out: Path, progress: Progress, chosen: pl.DataFrame, held_out: pl.DataFrame, examples: Sequence[Example]
) -> None:
    """Keep, and tell, which of the held-out rows the validation loss is of."""
    sources = by_source(chosen)
    if not examples:
        return
    said = ", ".join(f"{count:,} of {source}" for source, count in sources.items() if source)
    progress.note(f"validation: {chosen.height:,} of {held_out.height:,} held-out rows{f' ({said})' if said else ''}")
    numbers = {"rows": chosen.height, "held_out": held_out.height, "examples": len(examples), "by_source": sources}
    _record(out, {"validation": numbers})


def row_metrics(out: Path) -> dict[str, float]:
    """The counts as numbers of the stage."""
    read = _read(out)
    numbers = {name: float(read[name]) for name in COUNTS if name in read}
    return numbers | ({"validation_rows": float(read["validation"]["rows"])} if "validation" in read else {})


def _record(out: Path, parts: dict[str, Any]) -> None:
    """Processes that train together count the same rows."""
    if is_main():
        write_atomically(out / FILE, json.dumps(_read(out) | parts, indent=1))


def _read(out: Path) -> dict[str, Any]:
    path = out / FILE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
