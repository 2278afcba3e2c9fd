"""Prompts of training rows that nearly repeat a held-out prompt: what is measured on that prompt would be what was trained on.

A row is hit where the exact Jaccard index of the 5-grams of both prompts is high enough (`posttrain/text/near.py` has the same
rule for documents). All such rows are found (`posttrain/text/kernels/joins.py`), however many prompts come from one template.
A prompt that is itself held out is `leaked_prompt`'s.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.across import Hits, leaked
from posttrain.data.contract import asked
from posttrain.text.buffers import of_series
from posttrain.text.kernels import joins
from posttrain.text.kernels.folding import fold
from posttrain.text.near import shingles_of

SHINGLES: Final = 4  # 5-grams that a prompt must have: with another word a shorter one is another question
AT_ONCE: Final = 1 << 16  # training rows whose 5-grams are in memory
FEWEST_BITS, MOST_BITS = 10, 22  # of a hash, by which 5-grams are counted

Sets = NDArray[np.uint64]


class NearPrompts:
    """`near_prompt`: training rows with a prompt whose Jaccard index with a held-out prompt reaches `least`.

    Of each row 13 bytes are held: key, length, split. Its 5-grams wait in files; those of held-out rows are mapped into memory in
    the end, with an index of the rarest of them, and those of the others are looked up in it piece by piece.

    Args:
        least: Jaccard index from 0 to 1.
        folder: for files without a name; None is the system's.
    """

    def __init__(self, least: float, folder: Path | None = None) -> None:
        self._least = least
        # Closed with the last reference.
        self._known, self._asked = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115
        self._keys, self._lengths, self._held = (bytearray() for _ in range(3))

    def take(self, wide: pl.DataFrame) -> None:
        """Rows with `prompt`, `key` (a hash of it) and `split`; a system message is no part of what is compared."""
        if wide.is_empty():
            return
        sets, lengths = shingles_of(fold(*of_series(asked(wide["prompt"]))))
        sets = sets[: joins.distinct(sets, lengths, SHINGLES)]
        held = (wide["split"] == "holdout").to_numpy()
        known = np.repeat(held, lengths)
        self._known.write(sets[known].tobytes())
        self._asked.write(sets[~known].tobytes())
        self._lengths += lengths.astype(np.int32).tobytes()
        self._keys += wide["key"].to_numpy().tobytes()
        self._held += held.tobytes()

    def hits(self) -> dict[str, Hits]:
        """A row whose prompt is held out itself is not hit."""
        keys, held = np.frombuffer(self._keys, np.uint64), np.frombuffer(self._held, np.bool_)
        lengths = np.frombuffer(self._lengths, np.int32).astype(np.int64)
        found = np.zeros(len(keys), np.bool_)
        ends = np.cumsum(lengths[held])
        if len(ends) and ends[-1] and not held.all():
            self._known.flush()
            known = np.memmap(self._known, np.uint64, "r")
            found[~held] = np.concatenate([*_joined(known, ends, self._pieces(lengths[~held]), self._least)])
        return {"near_prompt": found & ~leaked(keys, held)}

    def _pieces(self, lengths: NDArray[np.int64]) -> Iterator[tuple[Sets, NDArray[np.int64]]]:
        """The sets of training rows, some at a time, with the length of each."""
        self._asked.seek(0, os.SEEK_SET)
        for at in range(0, len(lengths), AT_ONCE):
            some = lengths[at : at + AT_ONCE]
            yield _read(self._asked, int(some.sum())), some


def _read(file: IO[bytes], count: int) -> Sets:
    return np.frombuffer(file.read(8 * count), np.uint64)


def _joined(
    known: Sets, ends: NDArray[np.int64], pieces: Iterator[tuple[Sets, NDArray[np.int64]]], least: float
) -> Iterator[Hits]:  # fmt: skip
    """Which sets of each piece are like a known one."""
    shift = 64 - min(max(len(known).bit_length(), FEWEST_BITS), MOST_BITS)
    counts = np.zeros(1 << (64 - shift), np.uint32)
    joins.count(known, shift, counts)
    room = len(known) + len(ends)
    keys, sets, bits = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(len(ends), np.uint64)
    used = joins.index(known, ends, counts, shift, least, keys, sets, bits)
    order = np.argsort(keys[:used], kind="stable")
    keys, sets = keys[order], sets[order]
    bits = bits[sets]
    for asked_for, lengths in pieces:
        found, seen = np.zeros(len(lengths), np.bool_), np.full(len(ends), -1, np.int64)
        joins.join(asked_for, lengths, known, ends, counts, shift, least, keys, sets, bits, seen, found)
        yield found
