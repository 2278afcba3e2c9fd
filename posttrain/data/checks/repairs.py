"""What a recipe may have mended before rows are checked: each repair leaves every row where it is, and says which it changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.checks.personal import PARTS, redacted
from posttrain.data.findings import Tallied, places_of
from schemas.checks import Checks, Repair

Repaired = tuple[pl.DataFrame, NDArray[np.bool_]]
"""The table, and [rows] whether each was changed."""

# Of no meaning in any script. The joiners U+200C and U+200D are: Persian and emoji need them.
ZERO_WIDTH: Final = r"[\u{200B}\u{2060}\u{FEFF}\u{180E}]"
ENDS: Final = r"(?:\s*(?:<\|(?:im_end|eot_id|endoftext|end|end_of_text|eom_id)\|>|</s>|<end_of_turn>|<eos>))+\s*$"
QUOTED: Final = 20  # characters from which a prompt at the start of its answer is no coincidence


def strip_zero_width(table: pl.DataFrame, limits: Checks) -> Repaired:
    """Characters without width, byte order marks among them, are taken out of every message."""
    return _contents(table, PARTS, lambda content: content.str.replace_all(ZERO_WIDTH, ""))


def strip_template_tokens(table: pl.DataFrame, limits: Checks) -> Repaired:
    """Tokens that end a turn in some template are cut off the ends of answers, where a tokenizer's own output was saved."""
    return _contents(table, PARTS[1:], lambda content: content.str.replace(ENDS, ""))


def strip_prompt_prefix(table: pl.DataFrame, limits: Checks) -> Repaired:
    """Answers that start with the whole last message of their prompt lose it, where something is left behind it."""
    asked = pl.col("prompt").list.last().struct.field("content")
    changed = np.zeros(table.height, np.bool_)
    for column in (name for name in PARTS[1:] if name in table.columns):
        said = pl.col(column).list.first().struct.field("content")
        rest = said.str.slice(asked.str.len_chars()).str.strip_chars_start()
        long = asked.str.strip_chars().str.len_chars() >= QUOTED
        hit = (pl.col(column).list.len() == 1) & long & said.str.starts_with(asked) & (rest.str.len_chars() > 0)
        found = table.select(hit.fill_null(False)).to_series()
        if not found.any():
            continue
        message = pl.concat_list(pl.col(column).list.first().struct.with_fields(content=rest))
        table = table.with_columns(pl.when(pl.lit(found)).then(message).otherwise(column).alias(column))
        changed |= found.to_numpy()
    return table, changed


def redact_personal(table: pl.DataFrame, limits: Checks) -> Repaired:
    """Personal data and secrets become placeholders of their kind, such as [EMAIL]."""
    mended, _, changed = redacted(table, limits.personal)
    return mended, changed


REPAIRS: Final[dict[Repair, Callable[[pl.DataFrame, Checks], Repaired]]] = {
    "strip_zero_width": strip_zero_width,
    "strip_template_tokens": strip_template_tokens,
    "strip_prompt_prefix": strip_prompt_prefix,
    "redact_personal": redact_personal,
}


def repaired(table: pl.DataFrame, limits: Checks, mended: Tallied) -> pl.DataFrame:
    """The rows after the repairs of the recipe; `mended` is told which rows each of them changed."""
    for name in limits.repair:
        table, changed = REPAIRS[name](table, limits)
        mended.add(name, places_of(table.filter(pl.Series(changed)), "source"), int(changed.sum()))
    return table


def _contents(table: pl.DataFrame, columns: tuple[str, ...], change: Callable[[pl.Expr], pl.Expr]) -> Repaired:
    """The table with the content of every message of some columns changed."""
    there = [name for name in columns if name in table.columns]
    content: Any = pl.element().struct.field("content")
    new = table.with_columns(
        pl.col(name).list.eval(pl.element().struct.with_fields(content=change(content))).alias(name) for name in there
    )
    changed = pl.any_horizontal(pl.lit(False), *(table[name] != new[name] for name in there))
    return new, table.select(changed.fill_null(False).alias("changed")).to_series().to_numpy()
