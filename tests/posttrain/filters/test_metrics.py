"""Metrics of documents, worked out by hand."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.filters import plain
from posttrain.filters.metrics import annotate
from schemas.filter_rules import FilterRules


def one(text: str) -> dict[str, float]:
    """The metrics of a text, alike from the kernel and from plain Python."""
    found = annotate(pl.Series([text])).row(0, named=True)
    assert found == pytest.approx(plain.measure(text), abs=1e-12)
    return found


def test_columns_are_the_rules() -> None:
    table = annotate(pl.Series(["a", "b"]))
    assert table.columns == list(FilterRules.model_fields)
    assert table.shape == (2, len(FilterRules.model_fields))
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
    assert annotate(pl.Series([], dtype=pl.String)).shape == (0, len(FilterRules.model_fields))


def test_documents_do_not_touch_each_other() -> None:
    texts = ["same\nline", "", "same\nline\nsame", "same\nline"]
    together = annotate(pl.Series(texts))
    assert together.rows() == [annotate(pl.Series([text])).row(0) for text in texts]


def test_top_runs() -> None:
    """`a b` and `b a` occur twice in `a b x b a y a b a`: the first found counts, twice 3 of 17 characters; no three words do."""
    found = one("a b x b a y a b a")
    assert found["top_2gram_characters"] == pytest.approx(6 / 17)
    assert found["top_3gram_characters"] == found["top_4gram_characters"] == 0


def test_overlapping_runs_count_each_character_once() -> None:
    """Six times `a`: five runs of two words, which cover all 11 characters; the second of two runs of five covers 9."""
    found = one("a a a a a a")
    assert found["top_2gram_characters"] == 1
    assert found["duplicate_5gram_characters"] == pytest.approx(9 / 11)
    assert found["duplicate_6gram_characters"] == 0


def test_runs_of_words_cover_the_white_space_between_them_as_it_is() -> None:
    """`a  b` has 4 characters and `a b` 3, of 10 in all."""
    assert one("a  b x a b")["top_2gram_characters"] == pytest.approx(7 / 10)


def test_sentences() -> None:
    """A quotation may end one; `3.5` and `...` alone do not, Chinese ones need no space, and the last needs no full stop."""
    assert one('He said "No." Then 3.5 came! ... And')["sentences"] == 3
    assert one("\u4f60\u597d\u3002\u4e16\u754c\uff01 \u0645\u061f")["sentences"] == 3


def test_code_and_filler() -> None:
    """`lorem ipsum` in any case, with one blank, not inside another word."""
    found = one("f{a}{b} Lorem IPSUM dolor, xlorem ipsum lorem  ipsum")
    assert (found["curly_brackets"], found["lorem_ipsum"]) == (2, 1)


def test_lines_by_their_end_and_length() -> None:
    """Of five lines, four end in punctuation (a closing quote too); one has 31 characters; 5 line breaks on 8 words."""
    found = one(f'a.\n\n{"x" * 31}\nb?\nc said "no"\nd e\u2026')
    assert found["punctuated_line_share"] == pytest.approx(4 / 5)
    assert found["short_line_share"] == pytest.approx(4 / 5)
    assert found["newlines_per_word"] == pytest.approx(5 / 8)
