"""Prompts of training rows that nearly repeat a held-out prompt: what is measured on that prompt would be what was trained on.

MinHash bands find candidates; a row is hit only where the exact Jaccard index of the 5-grams of both prompts is high enough
(`posttrain/text/near.py` has the same rule for documents). A prompt that is itself held out is `leaked_prompt`'s.
"""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.data.across import Hits, is_among, leaked
from posttrain.data.contract import asked
from posttrain.text.buffers import of_series
from posttrain.text.kernels import minhash
from posttrain.text.kernels.folding import fold
from posttrain.text.near import band_hashes, shingles_of

BANDS: Final = 14
ROWS: Final = 8  # of a band: candidates are found with a probability of 0.65 at an index of 0.72, and of 0.92 at 0.8
SHINGLES: Final = 4  # 5-grams that a prompt must have: with another word a shorter one is another question
RIVALS: Final = 64  # held-out prompts after which no more are looked for: of a template thousands may share a band
SHORT: Final = np.uint64(32)
AT_ONCE: Final = 1 << 18  # rows whose bands are in memory

Sets = NDArray[np.uint64]
Bands = NDArray[np.uint32]


class NearPrompts:
    """`near_prompt`: training rows with a prompt whose Jaccard index with a held-out prompt reaches `least`.

    Of each row 17 bytes are held: key, place, split. Its 5-grams and 14 band hashes of 4 bytes, which only propose, wait in
    files; of held-out rows the hashes are read back in the end, and those of the others are looked up in them piece by piece.

    Args:
        least: Jaccard index from 0 to 1.
        folder: for files without a name; None is the system's.
    """

    def __init__(self, least: float, folder: Path | None = None) -> None:
        self._least = least
        # Closed with the last reference.
        self._file, self._banded = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115
        self._end = 0
        self._keys, self._starts, self._held = (bytearray() for _ in range(3))

    def take(self, wide: pl.DataFrame) -> None:
        """Rows with `prompt`, `key` (a hash of it) and `split`; a system message is no part of what is compared."""
        if wide.is_empty():
            return
        folded = fold(*of_series(wide.select(asked()).to_series()))
        self._banded.write((band_hashes(folded, BANDS, ROWS) >> SHORT).astype(np.uint32).tobytes())
        sets, lengths = shingles_of(folded)
        self._starts += (self._end + np.cumsum(lengths) - lengths).tobytes()
        self._end += int(lengths.sum())
        self._file.write(sets.tobytes())
        self._keys += wide["key"].to_numpy().tobytes()
        self._held += (wide["split"] == "holdout").to_numpy().tobytes()

    def hits(self) -> dict[str, NDArray[np.bool_]]:
        """A row whose prompt is held out itself is not hit."""
        keys, held = np.frombuffer(self._keys, np.uint64), np.frombuffer(self._held, np.bool_)
        found = np.zeros(len(keys), np.bool_)
        if not held.any() or held.all():
            return {"near_prompt": found}
        for row, rivals in self._candidates(held, ~held & ~leaked(keys, held)):
            own = self._set(row)
            found[row] = len(own) >= SHINGLES and any(
                minhash.jaccard(own, other) >= self._least for rival in rivals if len(other := self._set(rival)) >= SHINGLES
            )
        return {"near_prompt": found}

    def _candidates(self, held: Hits, training: Hits) -> Iterator[tuple[int, list[int]]]:
        """Training rows that share a band with held-out ones, with the first of them in each band until there are enough."""
        known = np.concatenate([part[held[at : at + len(part)]] for at, part in self._bands()])
        places = np.flatnonzero(held)
        orders = [np.argsort(known[:, band], kind="stable").astype(np.int32) for band in range(BANDS)]
        ranked = [known[order, band] for band, order in enumerate(orders)]
        for at, part in self._bands():
            rivals: defaultdict[int, set[int]] = defaultdict(set)  # each counts once, however many bands it shares
            for band, (order, hashes) in enumerate(zip(orders, ranked, strict=True)):
                rows = np.flatnonzero(training[at : at + len(part)] & is_among(part[:, band], hashes))
                first = np.searchsorted(hashes, part[rows, band])
                last = np.minimum(np.searchsorted(hashes, part[rows, band], side="right"), first + RIVALS)
                for row, start, end in zip(rows.tolist(), first.tolist(), last.tolist(), strict=True):
                    if len(rivals[row]) < RIVALS:
                        rivals[row].update(places[order[start:end]].tolist())
            yield from ((at + row, sorted(found)) for row, found in sorted(rivals.items()))

    def _bands(self) -> Iterator[tuple[int, Bands]]:
        """The band hashes of all rows, piece by piece, each with the number of its first row."""
        size = 4 * BANDS
        self._banded.seek(0, io.SEEK_END)
        for at in range(0, self._banded.tell() // size, AT_ONCE):
            self._banded.seek(at * size)
            yield at, np.frombuffer(self._banded.read(AT_ONCE * size), np.uint32).reshape(-1, BANDS)

    def _set(self, row: int) -> Sets:
        """The 5-grams of a row's prompt, sorted and each once."""
        starts = np.frombuffer(self._starts, np.int64)
        end = int(starts[row + 1]) if row + 1 < len(starts) else self._end
        self._file.seek(8 * int(starts[row]))
        return np.unique(np.frombuffer(self._file.read(8 * (end - int(starts[row]))), np.uint64))
