"""Rows whose parts are written in different scripts or languages, or in a language that the recipe does not name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.text.buffers import of_series
from posttrain.text.kernels.heads import NONE
from posttrain.text.language import identify_texts, names
from posttrain.text.scripts import scripts

LOOKED_AT: Final = 2_000  # characters of a text whose script is told
LETTERS: Final = 20  # that a text must have: fewer are a name, a number or code
MOST: Final = 0.6  # share of the letters that one script must have, else the text has none of its own
SURE: Final = 0.65  # score of a language below which a text has none
OTHER_LETTER: Final = r"[^\p{Latin}\P{L}]"
WORDY: Final = rf"(?:\p{{Latin}}\P{{Latin}}*){{{LETTERS}}}"
SPOKEN: Final = 40  # characters from which a language is told

Hits = NDArray[np.bool_]


def scripts_differ(texts: Sequence[pl.Series]) -> Hits:
    """[rows] whether parts of a row are in different scripts; a part of few letters, or of none mostly, is in none.

    Args:
        texts: parts, each of shape (rows,).
    """
    return _differ([_scripts(each) for each in texts])


def languages_wrong(texts: Sequence[pl.Series], allowed: Sequence[str]) -> Hits:
    """[rows] whether a part is in a language that is not `allowed`; with none allowed, whether parts are in different ones.

    Args:
        texts: parts, each of shape (rows,).
        allowed: ISO 639 codes.

    Raises:
        Refusal: when the extra `text` is not installed.
    """
    found = [_languages(each) for each in texts]
    return _differ(found) if not allowed else _any(found, pl.all().is_not_null() & ~pl.all().is_in(list(allowed)))


def _differ(parts: Sequence[pl.Series]) -> Hits:
    """[rows] whether two parts that have a name have different ones."""
    first = pl.coalesce(pl.all())
    return _any(parts, pl.all() != first)


def _any(parts: Sequence[pl.Series], hit: pl.Expr) -> Hits:
    table = pl.DataFrame([part.alias(str(at)) for at, part in enumerate(parts)])
    found: Hits = table.select(pl.any_horizontal(hit).fill_null(False)).to_series().to_numpy()
    return found


def _scripts(texts: pl.Series) -> pl.Series:
    """The script of each text: nearly all are told by having no letter but Latin ones, and only the others are counted."""
    heads = texts.fill_null("").str.slice(0, LOOKED_AT)
    others = heads.str.len_bytes() != heads.str.len_chars()
    others = others.scatter(others.arg_true(), heads.filter(others).str.contains(OTHER_LETTER))
    wordy = heads.str.contains(WORDY)
    latin = pl.Series(["Latin"]).new_from_index(0, len(heads)).set(~wordy | others, None)
    rest = others.arg_true()
    return latin.scatter(rest, [_script(heads[at]) for at in rest.to_list()]) if len(rest) else latin


def _script(text: str) -> str | None:
    shares = scripts(text)
    name = next(iter(shares), None)
    wordy = sum(map(str.isalpha, text)) >= (LETTERS // 4 if name in ("Han", "Kana", "Hangul") else LETTERS)
    return name if name is not None and wordy and shares[name] >= MOST else None


def _languages(texts: pl.Series) -> pl.Series:
    """The language of each text that is long enough for one, where the model is sure of it."""
    long = (texts.str.strip_chars().str.len_chars() >= SPOKEN).fill_null(False)
    told = identify_texts(of_series(texts.filter(long)))
    sure = (told.scores >= SURE) & (told.labels != NONE)
    found = pl.Series([None], dtype=pl.String).new_from_index(0, len(texts))
    return found.scatter(long.arg_true().filter(sure), pl.Series(names()).gather(told.labels[sure]))
