"""The holdout is decided by the text alone, unless a row or its file declares a split."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest
import xxhash

from posttrain.data.split import DeclaredSplits, assign, folded, holdout_mask

TEXTS = pl.Series([f"question {number}?" for number in range(2000)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\t b\r\n\n c ", "a b c"),
        ("a \u00a0\u2003b", "a b"),
        ("CAFE\u0301", "caf\u00e9"),
        ("Caf\u00e9", "caf\u00e9"),
        ("\u212b", "\u00e5"),  # the Angstrom sign is the letter
        ("it\u2019s", "it\u2019s"),
        ("", ""),
        (None, ""),
    ],
)
def test_folding(text: str | None, expected: str) -> None:
    """Alone and among others, because only the rows that need it are normalised."""
    assert folded(pl.Series([text], dtype=pl.String)).to_list() == [expected]
    assert folded(pl.Series(["x", text, "e\u0301"], dtype=pl.String)).to_list() == ["x", expected, "\u00e9"]


def test_a_text_is_held_out_where_its_hash_is_in_the_lowest_share() -> None:
    """xxh3 of the folded text, as another implementation of the rule: hash / 2^64 < share."""
    expected = [xxhash.xxh3_64_intdigest(text.encode()) / 2**64 < 0.1 for text in TEXTS]
    assert holdout_mask(TEXTS, 0.1).to_list() == expected


def test_a_hash_at_the_share_is_not_held_out() -> None:
    """The hash of this text is a number that floats have, so that a share can be exactly at it."""
    text = pl.Series(["question 346?"])
    share = 1623364470679230464 / 2**64
    assert share * 2**64 == xxhash.xxh3_64_intdigest(b"question 346?")
    assert holdout_mask(text, share).to_list() == [False]
    assert holdout_mask(text, math.nextafter(share, 1)).to_list() == [True]


def test_the_rule_never_changes() -> None:
    """Pinned: another hash would let rows that a stored model was trained on into its evaluation."""
    held = holdout_mask(TEXTS, 0.1)
    assert TEXTS.filter(held).head(5).to_list() == [
        "question 31?",
        "question 33?",
        "question 38?",
        "question 44?",
        "question 46?",
    ]
    assert 150 < held.sum() < 250


def test_a_larger_share_holds_out_the_same_and_more() -> None:
    small, large = holdout_mask(TEXTS, 0.1), holdout_mask(TEXTS, 0.3)
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_the_ends_of_the_range() -> None:
    assert not holdout_mask(TEXTS, 0.0).any()
    assert holdout_mask(TEXTS, 1.0).all()


def test_spelling_variants_fall_on_one_side() -> None:
    variants = pl.Series([f"  QUESTION\n {number}? " for number in range(2000)])
    assert holdout_mask(variants, 0.1).to_list() == holdout_mask(TEXTS, 0.1).to_list()


def test_order_and_neighbours_do_not_matter() -> None:
    assert holdout_mask(TEXTS.reverse(), 0.1).reverse().to_list() == holdout_mask(TEXTS, 0.1).to_list()


def test_no_rows() -> None:
    assert holdout_mask(pl.Series([], dtype=pl.String), 0.1).to_list() == []


def test_declared_splits_win_and_unknown_names_are_hashed() -> None:
    """Share 0 holds out nothing and share 1 everything, so that what the hash decides is visible."""
    declared = pl.Series(["train", "Test", " validation ", "train_prefs", "odd", None])
    keys = pl.Series(["a"] * 6)
    assert assign(declared, keys, 0.0).to_list() == ["train", "holdout", "holdout", "train", "train", "train"]
    assert assign(declared, keys, 1.0).to_list() == ["train", "holdout", "holdout", "train", "holdout", "holdout"]


@pytest.mark.parametrize(
    ("side", "row", "split"),
    [
        (None, {"split": "Test"}, "Test"),
        (None, {"split": "odd"}, "odd"),
        (None, {"split": 3}, None),
        ("train", {}, "train"),
        ("train", {"split": None}, "train"),
        ("train", {"split": "odd"}, "train"),
        ("train", {"split": 3}, "train"),
        ("train", {"split": " TEST "}, " TEST "),  # held out where one of both says so
        ("holdout", {}, "holdout"),
        ("holdout", {"split": "train"}, "holdout"),
        ("holdout", {"split": "validation"}, "validation"),
    ],
)
def test_a_row_is_declared_by_its_file_and_by_itself(side: str | None, row: dict[str, Any], split: str | None) -> None:
    assert DeclaredSplits(side).apply({"a": 1} | row) == {"a": 1, "split": split}


def test_a_row_that_nothing_declares_stays_as_it_is() -> None:
    assert DeclaredSplits(None).apply({"a": 1}) == {"a": 1}


def test_splits_that_are_no_names_are_counted_with_the_first_of_them() -> None:
    """Neither a name that is not known nor a missing one is counted."""
    splits = DeclaredSplits("train")
    for row in ({"split": "odd"}, {"split": None}, {}):
        splits.apply(row)
    assert splits.note("f") is None
    for value in (3, False, [1]):
        splits.apply({"split": value})
    assert splits.note("f") == "f: `split` is no name of a split in 3 rows (such as 3): it is not read there"
