"""What a recipe may ask of a document, and of a line: one field per metric, None is off, 0 is a limit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.base import Frozen
from schemas.fields import Limits


class Bounds(Limits):
    """An inclusive interval; null is open, 0 means 0."""


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
    top_2gram_characters: Bounds | None = None
    """Share of characters covered by the most frequent run of two words; 0 where none occurs twice."""
    top_3gram_characters: Bounds | None = None
    """Share of characters covered by the most frequent run of three words."""
    top_4gram_characters: Bounds | None = None
    """Share of characters covered by the most frequent run of four words."""
    duplicate_5gram_characters: Bounds | None = None
    """Share of characters covered by runs of five words that repeat an earlier one; no character counts twice."""
    duplicate_6gram_characters: Bounds | None = None
    """The same for runs of six words."""
    duplicate_7gram_characters: Bounds | None = None
    """The same for runs of seven words."""
    duplicate_8gram_characters: Bounds | None = None
    """The same for runs of eight words."""
    duplicate_9gram_characters: Bounds | None = None
    """The same for runs of nine words."""
    duplicate_10gram_characters: Bounds | None = None
    """The same for runs of ten words."""
    sentences: Bounds | None = None
    """Number of sentences."""
    curly_brackets: Bounds | None = None
    """Number of `{` characters: pages with code have them, prose has not."""
    lorem_ipsum: Bounds | None = None
    """How often `lorem ipsum` occurs, in any case."""
    punctuated_line_share: Bounds | None = None
    """Share of lines that end in a full stop, a question or exclamation mark, an ellipsis, or a closing quotation mark."""
    short_line_share: Bounds | None = None
    """Share of lines of at most 30 characters."""
    newlines_per_word: Bounds | None = None
    """Line breaks per word."""


class LineRules(Frozen):
    """Lines that are taken out of a document before it is measured. A rule that is left out keeps the preset's; null is off."""

    min_words: Annotated[int, Field(ge=0)] | None = None
    """Drop lines of fewer words."""
    max_word_length: Annotated[int, Field(ge=1)] | None = None
    """Drop lines with a longer word, in characters."""
    drop_unpunctuated: bool = False
    """Drop lines that do not end as `punctuated_line_share` says."""
    drop_ellipsis: bool = False
    """Drop lines that end in an ellipsis."""
    drop_javascript: bool = False
    """Drop lines that say `javascript`, in any case, as pages do that ask to switch it on."""
    drop_policy: bool = False
    """Drop lines that speak of terms of use, a privacy or cookie policy, or the use of cookies."""
    max_repeats: Annotated[int, Field(ge=1)] | None = None
    """Drop lines that the corpus has more often than this, or each 30 million documents of a larger one: its files are read
    twice. Blank lines stay."""

    def of_one_document(self) -> LineRules:
        """The rules that look at a line alone."""
        return self.model_copy(update={"max_repeats": None})
