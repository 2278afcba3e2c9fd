"""Inputs, the thresholds of their contracts, and the rules for the corpus."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Frozen

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
    """Conversations for supervised fine-tuning: `messages`, or `prompt` and `completion`."""
    preferences: Source | None = None
    """Preference pairs: `chosen` and `rejected`, with or without `prompt`."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of prompts (by hash) and documents that no training stage sees."""
    checks: Checks = Checks()
    """Thresholds of the contracts."""


class Bounds(Frozen):
    """An inclusive interval; null is open, 0 means 0."""

    min: float | None = None
    """Smallest allowed value."""
    max: float | None = None
    """Largest allowed value."""

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("bounds", "min {min} is above max {max}", {"min": self.min, "max": self.max})
        return self


class FilterRules(Frozen):
    """Bounds per metric of a document. A rule, or a side of it, that is left out keeps the preset's; null is off."""

    words: Bounds | None = None
    """Number of words."""
    mean_word_length: Bounds | None = None
    """Mean characters per word."""
    hash_per_word: Bounds | None = None
    """`#` characters per word."""
    ellipsis_per_word: Bounds | None = None
    """Ellipses per word."""
    bullet_line_share: Bounds | None = None
    """Share of lines that start with a bullet."""
    ellipsis_line_share: Bounds | None = None
    """Share of lines that end in an ellipsis."""
    alphabetic_word_share: Bounds | None = None
    """Share of words with at least one letter."""
    stop_words: Bounds | None = None
    """How many different words of {the, be, to, of, and, that, have, with} occur."""
    duplicate_line_share: Bounds | None = None
    """Share of lines that repeat an earlier line."""
    duplicate_paragraph_share: Bounds | None = None
    """Share of paragraphs that repeat an earlier paragraph."""
    duplicate_line_characters: Bounds | None = None
    """Share of characters in lines that repeat an earlier line."""
    duplicate_paragraph_characters: Bounds | None = None
    """Share of characters in paragraphs that repeat an earlier paragraph."""


PRESETS: dict[str, FilterRules] = {
    "none": FilterRules(),
    # Rae et al. 2021 (Gopher, arXiv 2112.11446), tables A1 and A2.
    "gopher": FilterRules(
        words=Bounds(min=50, max=100_000),
        mean_word_length=Bounds(min=3, max=10),
        hash_per_word=Bounds(max=0.1),
        ellipsis_per_word=Bounds(max=0.1),
        bullet_line_share=Bounds(max=0.9),
        ellipsis_line_share=Bounds(max=0.3),
        alphabetic_word_share=Bounds(min=0.8),
        stop_words=Bounds(min=2),
        duplicate_line_share=Bounds(max=0.3),
        duplicate_paragraph_share=Bounds(max=0.3),
        duplicate_line_characters=Bounds(max=0.2),
        duplicate_paragraph_characters=Bounds(max=0.2),
    ),
}


class Dedup(Frozen):
    """Removal of repeated documents."""

    exact: bool = True
    """Keep the first of documents that are equal after Unicode NFC, case folding and white-space folding."""


class Filtering(Frozen):
    """Metrics are computed once per document; these thresholds decide."""

    preset: Literal["gopher", "none"] = "gopher"
    """Named set of rules."""
    rules: FilterRules = FilterRules()
    """Overrides of the preset."""
    dedup: Dedup = Dedup()
    """Repeated documents."""

    def resolved(self) -> FilterRules:
        """The preset with this recipe's overrides."""
        preset = PRESETS[self.preset]
        overrides = {name: _over(getattr(preset, name), getattr(self.rules, name)) for name in self.rules.model_fields_set}
        return preset.model_copy(update=overrides)


def _over(preset: Bounds | None, given: Bounds | None) -> Bounds | None:
    """The sides that are given replace the preset's; null switches the rule off."""
    if preset is None or given is None:
        return given
    return preset.model_copy(update={side: getattr(given, side) for side in given.model_fields_set})
