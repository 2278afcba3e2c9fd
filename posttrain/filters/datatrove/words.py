"""The words and sentences of spaCy's English pipeline, as datatrove takes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from schemas.errors import Refusal

MOST_KNOWN: Final = 400_000  # runs of characters that are remembered


class Token(NamedTuple):
    """One word of spaCy."""

    text: str
    ends: bool
    """Whether it ends a sentence."""
    punctuation: bool


class Words:
    """spaCy takes a text apart at white space first, and each run between by itself: so each run is taken apart once."""

    def __init__(self) -> None:
        import spacy

        pipeline: Any = spacy.blank("en")
        self._tokenizer = pipeline.tokenizer
        sentencizer: Any = pipeline.add_pipe("sentencizer")
        self._ends: set[str] = sentencizer.punct_chars
        self._known: dict[str, tuple[Token, ...]] = {}

    def of(self, text: str) -> list[str]:
        """The words of a text."""
        return [token.text for token in self._tokens(text)]

    def sentences(self, text: str) -> int:
        """How many sentences it has: one starts with the first word behind an end that is no punctuation."""
        count, ended, some = 1, False, False
        for token in self._tokens(text):
            some = True
            if ended and not token.punctuation and not token.ends:
                count, ended = count + 1, False
            elif token.ends:
                ended = True
        return count if some else 0

    def _tokens(self, text: str) -> Iterator[Token]:
        for run in text.split():
            tokens = self._known.get(run)
            if tokens is None:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                tokens = tuple(Token(each.text, each.text in self._ends, each.is_punct) for each in self._tokenizer(run))
                self._known[run] = tokens
            yield from tokens


@cache
def words() -> Words:
    """The words of this process."""
    return Words()


def require() -> None:
    """Refuse the variant where spaCy is not installed.

    Raises:
        Refusal: naming the extra.
    """
    if importlib.util.find_spec("spacy") is None:
        raise Refusal(
            where="filtering.variant", found="datatrove, and no package `spacy`", allowed="datatrove with the extra `datatrove`",
            remedy='pip install "posttrain[datatrove]", or leave the variant out',
        )  # fmt: skip
