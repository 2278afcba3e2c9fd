"""Metrics of documents, worked out by hand, and against a plain Python oracle."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.filters.metrics import METRICS, STOP_WORDS, annotate
from schemas.filter_rules import FilterRules


def one(text: str) -> dict[str, float]:
    return annotate(pl.Series([text])).row(0, named=True)


def test_columns_are_the_rules() -> None:
    table = annotate(pl.Series(["a", "b"]))
    assert table.columns == list(FilterRules.model_fields)
    assert table.shape == (2, 12)
    assert set(table.dtypes) == {pl.Float64}


def test_words_and_symbols() -> None:
    """9 words of 3+3+2+6+3+2+4+3+2 = 28 characters; `#1` and `42` have no letter; the, and, have are stop words."""
    found = one("The cat #1 ran... and we have\nfun 42")
    assert found["words"] == 9
    assert found["mean_word_length"] == pytest.approx(28 / 9)
    assert found["hash_per_word"] == pytest.approx(1 / 9)
    assert found["ellipsis_per_word"] == pytest.approx(1 / 9)
    assert found["alphabetic_word_share"] == pytest.approx(7 / 9)
    assert found["stop_words"] == 3


def test_stop_words_between_boundaries_in_any_case() -> None:
    """THE, that('s) and to(-do) count once each; `bed`, `often` and `beside` hold none."""
    assert one("THE bed, often beside that's to-do the")["stop_words"] == 3


def test_unicode_words() -> None:
    """No-break, ideographic and doubled spaces separate; letters of any script are letters: 1 of 5 words has none."""
    found = one("  \u00e9t\u00e9\u00a0\u4f60\u597d\u3000\u0434\u0430\tb  9 ")
    assert found["words"] == 5
    assert found["mean_word_length"] == pytest.approx((3 + 2 + 2 + 1 + 1) / 5)
    assert found["alphabetic_word_share"] == pytest.approx(4 / 5)


def test_bullets_and_ellipsis_lines() -> None:
    """Of five lines, `- a` and `• b` have a bullet (`-c` has not), `end....` and `x…` end in an ellipsis."""
    found = one("- a\n \u2022 b\n\n-c\nend....\r\nx\u2026")
    assert found["bullet_line_share"] == pytest.approx(2 / 5)
    assert found["ellipsis_line_share"] == pytest.approx(2 / 5)
    assert found["ellipsis_per_word"] == pytest.approx(2 / 7)


def test_repeated_lines() -> None:
    """Lines ab, ab, cd, ab: two repeat an earlier one; 2x2 of the 13 characters are in them."""
    found = one("ab\n ab \ncd\nab")
    assert found["duplicate_line_share"] == pytest.approx(2 / 4)
    assert found["duplicate_line_characters"] == pytest.approx(4 / 13)
    assert found["duplicate_paragraph_share"] == 0


def test_repeated_paragraphs() -> None:
    """Paragraphs one, one, two (a line of white space separates too): 1 of 3, 3 of 14 characters."""
    found = one("one\n\none\n \ntwo")
    assert found["duplicate_paragraph_share"] == pytest.approx(1 / 3)
    assert found["duplicate_paragraph_characters"] == pytest.approx(3 / 14)


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_nothing_is_zero(text: str) -> None:
    assert set(one(text).values()) == {0.0}


def test_no_documents() -> None:
    assert annotate(pl.Series([], dtype=pl.String)).shape == (0, 12)


def test_documents_do_not_touch_each_other() -> None:
    texts = ["same\nline", "", "same\nline\nsame", "same\nline"]
    together = annotate(pl.Series(texts))
    assert together.rows() == [annotate(pl.Series([text])).row(0) for text in texts]


def oracle(text: str) -> dict[str, float]:
    """The definitions of the module docstring, one document at a time."""
    words = text.split()
    count = max(len(words), 1)
    found = {
        "words": len(words),
        "mean_word_length": sum(map(len, words)) / count,
        "hash_per_word": text.count("#") / count,
        "ellipsis_per_word": len(re.findall(r"\.{3,}|…", text)) / count,
        "alphabetic_word_share": sum(any(map(str.isalpha, word)) for word in words) / count,
        "stop_words": len(set(STOP_WORDS) & set(re.findall(r"\w+", text.lower()))),
    }
    units = {"line": text.split("\n"), "paragraph": re.split(r"\n\s*\n", text)}
    for unit, parts in units.items():
        parts = [part.strip() for part in parts if part.strip()]
        repeats = [part for place, part in enumerate(parts) if part in parts[:place]]
        found[f"duplicate_{unit}_share"] = len(repeats) / max(len(parts), 1)
        found[f"duplicate_{unit}_characters"] = sum(map(len, repeats)) / max(len(text), 1)
    lines = [line.strip() for line in units["line"] if line.strip()]
    found["bullet_line_share"] = sum(bool(re.match(r"[•●]|[-*]\s", line)) for line in lines) / max(len(lines), 1)
    found["ellipsis_line_share"] = sum(line.endswith(("...", "…")) for line in lines) / max(len(lines), 1)
    return found


WORDS = ["the", "The", "to", "be", "x", "é", "9", "ab"]
MARKS = ["#", "...", "…", ".", "\n", "\n\n", " ", "\t", "- ", "•", "*"]
pieces = st.sampled_from(WORDS + MARKS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(pieces, max_size=25).map("".join), min_size=1, max_size=4))
def test_against_the_oracle(texts: list[str]) -> None:
    for text, found in zip(texts, annotate(pl.Series(texts)).iter_rows(named=True), strict=True):
        assert found == pytest.approx({name: oracle(text)[name] for name in METRICS}), repr(text)
