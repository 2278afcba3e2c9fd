"""The rules on what is told of a document besides its metrics: which documents pass, and the reasons against the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from posttrain.filters.rules import Told
from posttrain.filters.scores import told
from schemas.errors import Refusal
from schemas.filter_scores import LanguageRules
from schemas.filtering import Filtering


class Rule(NamedTuple):
    """One side of a rule."""

    broken: pl.Expr
    """True where a document breaks it."""
    reason: str | pl.Expr
    """What is said then."""


def rules(filtering: Filtering) -> Iterator[Rule]:
    """Every rule that is on, in the order of the fields."""
    if filtering.language:
        yield from _language(filtering.language)
    if filtering.personal and filtering.personal.action == "drop":
        yield _above("personal_data", 0)
    if filtering.quality:
        yield Rule(pl.col("quality") < filtering.quality.keep, f"quality < {told(filtering.quality.keep)}")
    if (perplexity := filtering.perplexity) is not None:
        if perplexity.max is not None:
            yield _above("perplexity", perplexity.max)
        if perplexity.min is not None:
            yield Rule(pl.col("perplexity") < perplexity.min, f"perplexity < {told(perplexity.min)}")
    if filtering.decontaminate and filtering.decontaminate.remove:
        yield Rule(pl.col("contaminated_runs") > 0, "contaminated")
    if filtering.dirty_words:
        yield _above("dirty_word_share", filtering.dirty_words.max)


def _above(column: str, limit: float) -> Rule:
    return Rule(pl.col(column) > limit, f"{column} > {told(limit)}")


def _language(asked: LanguageRules) -> Iterator[Rule]:
    code, score = pl.col("language"), pl.col("language_score")
    if asked.keep is not None:
        yield Rule(~code.is_in(asked.keep), pl.concat_str(pl.lit("language "), code))
    if not asked.scores:
        yield Rule(score < asked.min_score, f"language_score < {asked.min_score}")
        return
    limit = code.replace_strict(asked.scores, default=asked.min_score, return_dtype=pl.Float64)
    yield Rule(score < limit, pl.concat_str(pl.lit("language_score < "), limit))


def passing(documents: pl.DataFrame, filtering: Filtering) -> pl.Series:
    """Which documents break no rule, shape (documents,). What could not be told (null) is no reason against one."""
    broken = [rule.broken.fill_null(False) for rule in rules(filtering)]
    if not broken:
        return pl.repeat(True, documents.height, eager=True)
    return documents.select(~pl.any_horizontal(broken)).to_series()


def broken(documents: pl.DataFrame, filtering: Filtering) -> list[Told]:
    """For each rule the documents that break it."""
    return [
        Told(
            documents.select(rule.broken.fill_null(False)).to_series().to_numpy(),
            rule.reason if isinstance(rule.reason, str) else documents.select(rule.reason).to_series(),
        )
        for rule in rules(filtering)
    ]


def refuse_unmeasured(before: Filtering, now: Filtering, folder: object) -> None:
    """Refuse to decide by what an earlier run has not told, or has told of other things."""
    for field, decides in _DECIDES.items():
        was, asked = (
            {name: getattr(section, name) for name in decides} if (section := getattr(each, field)) else None
            for each in (before, now)
        )
        if asked is not None and asked != was:
            raise Refusal(
                where=f"filtering.{field}",
                found=f"{asked or 'a rule'}; {folder} was made {f'with {was}' if was else 'without it'}",
                allowed="what it was: it is told from the texts",
                remedy="leave it as it was, or filter the corpus again",
            )


_DECIDES = {
    "language": (),
    "personal": ("kinds",),
    "quality": ("good", "bad", "model", "label", "seed"),
    "perplexity": ("model", "tokens"),
    "decontaminate": ("against",),
    "dirty_words": ("words",),
    "divergence": (),
    "mixture": ("tokenizer",),
}
"""What of each section decides the values of its columns; the rest only decides about them."""
