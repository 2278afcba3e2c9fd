"""Exact deduplication: what counts as equal, and which copy stays."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from posttrain.text.copies import KEY, copies, fingerprint, keys, together


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A  cat\n sat ", "a cat sat"),
        ("caf\u00e9", "cafe\u0301"),  # composed and combining accent
        ("STRASSE", "stra\u00dfe"),  # case folding, not lower case
        ("a\u00a0b", "a b"),
        ("\u01f0", "J\u030c"),  # case folding takes the composed letter apart
    ],
)
def test_equal(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("one", "other"), [("a cat", "a cats"), ("a b", "ab"), ("caf\u00e9", "cafe"), ("a.", "a")])
def test_different(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_fingerprint_is_128_bits_of_xxh3() -> None:
    """The published XXH3-128 of no input, so that digests stay comparable across versions."""
    assert fingerprint("").hex() == "99aa06d3014798d86001c324468d497f"


def repeated(*documents: tuple[int, str, bool]) -> dict[int, int]:
    """Which document each repeats, of (number, text, passes)."""
    numbers, texts, passes = zip(*documents, strict=True)
    found = copies(keys(b"".join(fingerprint(text) for text in texts), np.array(numbers), np.array(passes)))
    assert found["number"].tolist() == sorted(found["number"])
    return dict(zip(found["number"].tolist(), found["of"].tolist(), strict=True))


def test_the_first_is_kept() -> None:
    assert repeated((1, "x", True), (2, "y", True), (3, "X", True), (4, "z", True), (5, " Z", True)) == {3: 1, 5: 4}


def test_a_rejected_first_copy_does_not_drop_the_second() -> None:
    """The third repeats the second; a rejected document may repeat a kept one too."""
    assert repeated((1, "x", False), (2, "x", True), (3, "x", True), (4, "X", False)) == {3: 2, 4: 2}


def test_where_none_passes_none_is_repeated() -> None:
    assert repeated((1, "x", False), (2, "x", False), (3, "y", True)) == {}


def test_order_does_not_matter() -> None:
    documents = [(number, text, number % 3 > 0) for number, text in enumerate("abcab" * 4)]
    assert repeated(*documents) == repeated(*reversed(documents))


def test_no_documents() -> None:
    assert len(copies(np.empty(0, KEY))) == 0


def test_fingerprints_of_a_column_are_joined_in_its_order_also_of_a_part_of_it() -> None:
    prints = [fingerprint(text) for text in "abcd"]
    column = pl.Series(prints, dtype=pl.Binary)
    assert together(column) == b"".join(prints)
    assert together(column[1:3]) == prints[1] + prints[2]
    assert together(column.filter(pl.Series([True, False, False, True]))) == prints[0] + prints[3]
    assert together(column.head(0)) == b""
