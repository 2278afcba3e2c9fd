"""Exact deduplication: what counts as equal, and which copy stays."""

from __future__ import annotations

import pytest

from posttrain.filters.dedup import duplicates, fingerprint


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


def test_first_is_kept_across_batches() -> None:
    seen: dict[bytes, str] = {}
    assert duplicates(["1", "2"], ["x", "y"], [True, True], seen).to_list() == [None, None]
    assert duplicates(["3", "4", "5"], ["X", "z", " Z"], [True, True, True], seen).to_list() == ["1", None, "4"]
    assert duplicates(["6"], ["z"], [True], seen).to_list() == ["4"]


def test_a_rejected_first_copy_does_not_drop_the_second() -> None:
    assert duplicates(["1", "2", "3"], ["x", "x", "x"], [False, True, True], {}).to_list() == [None, None, "2"]
