"""A seeded compositional grammar of short reviews, and the ground-truth reward of a review.

Only `Random.random()` is drawn from: it alone is promised to give the same sequence in every Python version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

from posttrain.data import lexicon as lex

T = TypeVar("T")
NEUTRAL_SHARE = 0.15
TONES = (0.1, 0.5, 0.9)
"""Shares of positive sentences: panned, mixed, praised."""
_POSITIVE, _NEGATIVE = lex.POSITIVE.lexicon, lex.NEGATIVE.lexicon


class Item(NamedTuple):
    """Something that can be reviewed: `Harbor Lantern`, a `restaurant`."""

    name: str
    kind: str


def sentiment(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Ground-truth reward of each response: (p - n) / (p + n + 1), in (-1, 1), where p and n count positive and negative words.

    Whole words of the lexicons are counted, whatever their case. The prompts do not matter; they are there because every
    reward function takes both.
    """
    return [_score(response) for _, response in zip(prompts, responses, strict=True)]


def _score(text: str) -> float:
    words = re.findall(r"\w+", text.lower())
    positive, negative = (sum(word in side for word in words) for side in (_POSITIVE, _NEGATIVE))
    return (positive - negative) / (positive + negative + 1)


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, each equally likely."""
    return options[int(rng.random() * len(options))]


def draw_item(rng: Random) -> Item:
    """An item: first name x second name x kind, 36,000 in all."""
    return Item(f"{pick(rng, lex.FIRST_NAMES)} {pick(rng, lex.SECOND_NAMES)}", pick(rng, tuple(lex.KINDS)))


def prompt(rng: Random, item: Item) -> str:
    """A request for a review of the item."""
    return pick(rng, lex.PROMPTS).format(item=item.name, kind=item.kind, a_kind=_article(item.kind))


def review(rng: Random, item: Item, sentences: int) -> str:
    """A review of that many sentences. Its tone is drawn first; each sentence after the opening follows it mostly."""
    positive_share = pick(rng, TONES)
    parts = [_fill(rng, lex.OPENINGS, item, lex.POSITIVE)]
    for _ in range(sentences - 1):
        side = lex.POSITIVE if rng.random() < positive_share else lex.NEGATIVE
        parts.append(_fill(rng, lex.NEUTRAL if rng.random() < NEUTRAL_SHARE else lex.POLAR, item, side))
    return " ".join(parts)


def _fill(rng: Random, templates: Sequence[str], item: Item, side: lex.Polarity) -> str:
    kind = lex.KINDS[item.kind]
    adjective, noun, aspect = pick(rng, side.adjectives), pick(rng, side.nouns), pick(rng, kind.aspects)
    return pick(rng, templates).format(
        item=item.name,
        kind=item.kind,
        kinds=kind.plural,
        a_kind=_article(item.kind),
        verb_used=kind.verb,
        aspect=aspect,
        aspect2=pick(rng, [other for other in kind.aspects if other != aspect]),
        adjective=adjective,
        a_adjective=_article(adjective),
        adjective2=pick(rng, [other for other in side.adjectives if other != adjective]),
        verb=pick(rng, side.verbs),
        a_noun=_article(noun),
        adverb=pick(rng, lex.ADVERBS),
        verb_adverb=pick(rng, lex.VERB_ADVERBS),
        person=pick(rng, lex.PEOPLE),
        time=pick(rng, lex.TIMES),
        place=pick(rng, lex.PLACES),
        number=pick(rng, lex.NUMBERS),
    )


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
