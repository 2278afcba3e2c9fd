"""The section `filtering`: which rules a corpus is judged by, and what counts as a repeated document."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.filter_presets import LINE_PRESETS, PRESETS
from schemas.filter_rules import Bounds, FilterRules, LineRules
from schemas.filter_scores import (
    Decontaminate,
    DirtyWords,
    Divergence,
    LanguageRules,
    Mixture,
    Perplexity,
    PersonalData,
    Quality,
)  # fmt: skip

Bands = Literal["14x8", "9x13", "20x13"]


class Dedup(Frozen):
    """Removal of repeated documents."""

    exact: bool = True
    """Keep the first of documents that are equal after Unicode NFC, case folding and white-space folding."""
    near: Bands | None = None
    """Look for near-duplicates too: bands x rows of a MinHash of word 5-grams. Half of the pairs with a Jaccard index of 0.72 are
    found by 14x8, of 0.84 by 9x13, of 0.79 by 20x13; nearly all of those with a much higher one."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A document is removed where its exact Jaccard index with one that is kept is at least this."""
    url: bool = False
    """Of documents with the same `url` keep the last: the newest, where files are in the order of their dates."""
    against: str | None = None
    """A folder with what earlier runs kept: documents that repeat it are removed, and what this run keeps is added to it."""


class Filtering(Frozen):
    """Metrics are computed once per document; these thresholds decide."""

    preset: Literal["gopher", "c4", "fineweb-paper", "fineweb-code", "llama3", "none"] = "gopher"
    """Named set of rules."""
    variant: Literal["posttrain", "datatrove"] = "posttrain"
    """How words, lines and repeats are counted: by our definitions, or as datatrove does, which is slower (extra `datatrove`)."""
    rules: FilterRules = FilterRules()
    """Overrides of the preset."""
    lines: LineRules = LineRules()
    """Overrides of the preset's rules for lines."""
    dedup: Dedup = Dedup()
    """Repeated documents."""
    language: LanguageRules | None = None
    """Languages; null does not tell them."""
    personal: PersonalData | None = None
    """Personal data and secrets; null does not look for them."""
    quality: Quality | None = None
    """A classifier of good documents."""
    perplexity: Perplexity | None = None
    """How surprising documents are to a language model."""
    decontaminate: Decontaminate | None = None
    """Evaluation sets that no document may repeat."""
    dirty_words: DirtyWords | None = None
    """Words that documents may not have many of."""
    divergence: Divergence | None = None
    """How far the words of a document are distributed like those of the corpus."""
    mixture: Mixture | None = None
    """Shares of languages or sources in what is kept."""

    def document(self) -> dict[str, Any]:
        """As JSON that reads back as the same: of overrides only those that are given, for null is one."""
        given = {name: getattr(self, name).model_dump(mode="json", exclude_unset=True) for name in ("rules", "lines")}
        return self.model_dump(mode="json") | given

    def resolved(self) -> FilterRules:
        """The preset with this recipe's overrides."""
        preset = PRESETS[self.preset]
        overrides = {name: _over(getattr(preset, name), getattr(self.rules, name)) for name in self.rules.model_fields_set}
        return preset.model_copy(update=overrides)

    def resolved_lines(self) -> LineRules:
        """The preset's rules for lines with this recipe's overrides."""
        preset = LINE_PRESETS.get(self.preset, LineRules())
        return preset.model_copy(update={name: getattr(self.lines, name) for name in self.lines.model_fields_set})


def _over(preset: Bounds | None, given: Bounds | None) -> Bounds | None:
    """The sides that are given replace the preset's; null switches the rule off."""
    if preset is None or given is None:
        return given
    return preset.model_copy(update={side: getattr(given, side) for side in given.model_fields_set})


SCORED: Final = tuple(name for name in Filtering.model_fields if name not in ("preset", "variant", "rules", "lines", "dedup"))
"""Fields that are about more than metrics and copies."""


class FilterCommand(Frozen):
    """What `posttrain filter` takes of a recipe."""

    filtering: Filtering = Filtering()
    """As in a recipe."""
