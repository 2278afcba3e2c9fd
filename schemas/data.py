"""Inputs, and the thresholds of their contracts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.reading import Readings

Share = Annotated[float, Field(ge=0, le=1)]
Source = Annotated[str, Field(min_length=1)]


class Checks(Frozen):
    """Thresholds of the preference contract. Shares are of the rows read."""

    max_drop_rate: Share = 0.2
    """Fail when more than this share of rows is quarantined in all."""
    prompt_mismatch_fail: Share = 0.01
    """Fail when more than this share has two different prompts."""
    conflict_fail: Share = 0.01
    """Fail when more than this share says A>B and B>A for one prompt."""
    reversed_scores_fail: Share = 0.005
    """Fail when more than this share has scores against its label."""
    length_bias_warn: Share = 0.65
    """Warn when P(chosen is longer) is above this or below one minus this."""
    length_bias_fail: Share = 0.85
    """Fail when P(chosen is longer) is above this or below one minus this."""
    waive: tuple[Literal["prompt_mismatch", "conflict", "reversed_scores", "length_bias", "max_drop_rate"], ...] = ()
    """Checks whose failure of the whole data set is turned into a warning."""


class Data(Frozen):
    """Sources: a path, a glob, an fsspec URL, or `sample://corpus|instructions|preferences`.

    `${NAME}` in them stands for an environment variable; a password or token written out is refused.
    """

    corpus: Source | None = None
    """Documents for pretraining: JSONL(.gz/.zst) or Parquet with a `text` column."""
    instructions: Source | None = None
    """Conversations for supervised fine-tuning: `messages`, `prompt` and `completion`, or another shape of docs/data.md."""
    preferences: Source | None = None
    """Preference pairs: `chosen` and `rejected`, with or without `prompt`, or another shape of docs/data.md."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of prompts (by hash) and documents that no training stage sees."""
    checks: Checks = Checks()
    """Thresholds of the contracts."""
    reading: Readings = Readings()
    """Columns by other names, columns to leave out, and pairs of rankings (docs/data.md)."""
