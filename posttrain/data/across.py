"""Checks that need all rows of a data set: what they keep of each row while it streams by, and what they find in the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

PARTS: Final = 16  # in which many rows are sorted, so that sorting takes a part of the memory; a power of two
MANY: Final = 1 << 20  # rows
HELD, SWAPPED, SAME = 1, 2, 4  # flags of a row

Hits = NDArray[np.bool_]


class Across(Protocol):
    """Sees the rows of a data set once, in order, and says in the end which of them its checks hit."""

    def take(self, wide: pl.DataFrame) -> None:
        """More rows, with the columns of `contract.features`."""

    def hits(self) -> dict[str, Hits]:
        """By check whether each row is hit, shape (rows,)."""


class Repeats:
    """`duplicate`, `conflict`, `leaked_prompt` and `duplicate_prompt`, in 17 bytes a row: two hashes and flags.

    64-bit hashes stand for texts: of 40 million rows two different ones fall together with a probability of 0.00004.
    So many rows take 680 MB, less than their partitions on disk would take of the page cache, and no second reading.
    """

    def __init__(self) -> None:
        self._pairs, self._keys, self._flags = bytearray(), bytearray(), bytearray()

    def take(self, wide: pl.DataFrame) -> None:
        """A pair and its reverse have one hash, the smaller of theirs, and a flag that says which of the two it is."""
        pair, turned = wide["pair"].to_numpy(), wide["reversed"].to_numpy()
        held = (wide["split"] == "holdout").to_numpy()
        self._pairs += np.minimum(pair, turned).tobytes()
        self._keys += wide["key"].to_numpy().tobytes()
        self._flags += (HELD * held + SWAPPED * (pair > turned) + SAME * (pair == turned)).astype(np.uint8).tobytes()

    def hits(self) -> dict[str, Hits]:
        """A duplicate is one within its split: a pair in both is a leak, and must not be dropped from the holdout as well."""
        pairs, keys = np.frombuffer(self._pairs, np.uint64), np.frombuffer(self._keys, np.uint64)
        flags = np.frombuffer(self._flags, np.uint8)
        duplicate, conflict = np.zeros(len(pairs), np.bool_), np.zeros(len(pairs), np.bool_)
        for rows in _parts(pairs):
            # `lexsort` is stable: the first of equal rows is the first of the file.
            order = rows[np.lexsort((flags[rows], pairs[rows]))]
            duplicate[order] = ~_is_new(pairs[order]) & ~_is_new(flags[order])
            conflict[order] = _both_ways(pairs[order], flags[order])
        held = (flags & HELD) > 0
        again = np.zeros(len(keys), np.bool_)
        for rows in _parts(keys):
            order = rows[np.lexsort((held[rows], keys[rows]))]
            again[order] = ~_is_new(keys[order]) & ~_is_new(held[order].view(np.uint8))
        return {"duplicate": duplicate, "conflict": conflict, "leaked_prompt": leaked(keys, held), "duplicate_prompt": again}


def _parts(hashes: NDArray[np.uint64]) -> Iterator[NDArray[np.intp]]:
    """Positions of the rows in parts, of which each has all rows of the same hash."""
    if len(hashes) < MANY:
        yield np.arange(len(hashes))
        return
    highest = hashes.view(np.uint8)[7::8] if sys.byteorder == "little" else hashes.view(np.uint8)[::8]
    for part in range(PARTS):
        yield np.flatnonzero(highest % PARTS == part)


def _is_new(values: NDArray[np.uint64] | NDArray[np.uint8]) -> Hits:
    """Whether each value differs from the one before it."""
    return np.r_[True, values[1:] != values[:-1]] if len(values) else np.zeros(0, np.bool_)


def _both_ways(pairs: NDArray[np.uint64], flags: NDArray[np.uint8]) -> Hits:
    """Of sorted rows those whose pair also comes with its sides swapped; one whose sides are the same contradicts nothing."""
    if not len(pairs):
        return np.zeros(0, np.bool_)
    starts = np.flatnonzero(_is_new(pairs))
    swapped, straight = ((flags & SWAPPED) > 0), (flags & (SWAPPED | SAME)) == 0
    both = np.logical_or.reduceat(swapped, starts) & np.logical_or.reduceat(straight, starts)
    return np.repeat(both, np.diff(np.r_[starts, len(pairs)]))


def leaked(keys: NDArray[np.uint64], held: Hits) -> Hits:
    """Rows of training whose prompt is held out too."""
    return is_among(keys, np.unique(keys[held])) & ~held


def is_among(values: NDArray[Any], known: NDArray[Any]) -> Hits:
    """Which values are known, shape (values,); `known` is sorted. In pieces: `np.isin` sorts copies of all of them."""
    found = np.zeros(len(values), np.bool_)
    for at in range(0, len(values) if len(known) else 0, MANY):
        some = slice(at, at + MANY)
        nearest = np.minimum(np.searchsorted(known, values[some]), len(known) - 1)
        found[some] = known[nearest] == values[some]
    return found
