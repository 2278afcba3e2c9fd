"""Checks between rows against the same written down row by row, and with many rows in parts."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from posttrain.data import across
from posttrain.data.across import Repeats, is_among

Row = tuple[int, int, int, str]
"""Pair, the pair with its sides swapped, key of the prompt, split."""


def rows_of(count: int, seed: int) -> list[Row]:
    """Few different ones, so that all kinds of repeats come; hashes use all their bits."""
    draw = random.Random(seed)
    spread = 0x9E3779B97F4A7C15
    found = []
    for _ in range(count):
        one, other, key = draw.randrange(8), draw.randrange(8), draw.randrange(6)
        split = draw.choice(["train", "train", "holdout"])
        pair, turned = (((key * 64 + a * 8 + b + 1) * spread) % 2**64 for a, b in ((one, other), (other, one)))
        found.append((pair, turned, key * spread % 2**64, split))
    return found


def by_hand(rows: list[Row]) -> dict[str, list[bool]]:
    seen: set[tuple[int, str]] = set()
    asked: set[tuple[int, str]] = set()
    pairs, held = {row[0] for row in rows}, {row[2] for row in rows if row[3] == "holdout"}
    duplicate, again = [], []
    for pair, _, key, split in rows:
        duplicate.append((pair, split) in seen)
        again.append((key, split) in asked)
        seen.add((pair, split))
        asked.add((key, split))
    return {
        "duplicate": duplicate,
        "conflict": [turned in pairs and turned != pair for pair, turned, _, _ in rows],
        "duplicate_prompt": again,
        "leaked_prompt": [split == "train" and key in held for _, _, key, split in rows],
    }


def found(rows: list[Row]) -> dict[str, list[bool]]:
    repeats = Repeats()
    schema = {"pair": pl.UInt64, "reversed": pl.UInt64, "key": pl.UInt64, "split": pl.String}
    for part in pl.DataFrame(rows, schema=schema, orient="row").iter_slices(37):
        repeats.take(part)
    return {name: hits.tolist() for name, hits in repeats.hits().items()}


@pytest.mark.parametrize("many", [across.MANY, 100])
@pytest.mark.parametrize("seed", range(5))
def test_repeats_are_those_that_a_row_by_row_search_finds(seed: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "MANY", many)
    rows = rows_of(400, seed)
    expected = by_hand(rows)
    assert all(any(hits) and not all(hits) for hits in expected.values())
    assert found(rows) == expected


def test_no_rows_have_no_repeats() -> None:
    assert found([]) == {"duplicate": [], "conflict": [], "leaked_prompt": [], "duplicate_prompt": []}


@pytest.mark.parametrize("many", [across.MANY, 2])
def test_values_below_between_and_above_the_known_ones_are_not_among_them(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "MANY", many)
    values, known = np.array([9, 5, 1, 6, 7, 5], np.uint64), np.array([5, 7], np.uint64)
    assert is_among(values, known).tolist() == [False, True, False, False, True, True]
    assert is_among(values, known[:0]).tolist() == [False] * 6
    assert is_among(values[:0], known).tolist() == []
