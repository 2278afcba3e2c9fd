"""Prompts of training rows that nearly repeat a held-out prompt: what is measured on that prompt would be what was trained on.

MinHash bands find candidates; a row is hit only where the exact Jaccard index of the 5-grams of both prompts is high enough
(`posttrain/text/near.py` has the same rule for documents). A prompt that is itself held out is `leaked_prompt`'s.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.across import is_among, leaked
from posttrain.data.contract import asked
from posttrain.text.buffers import buffers
from posttrain.text.kernels import minhash
from posttrain.text.kernels.folding import fold
from posttrain.text.near import band_hashes, shingles_of

BANDS: Final = 14
ROWS: Final = 8  # of a band: candidates are found with a probability of one half at an index of 0.72
SHINGLES: Final = 4  # 5-grams that a prompt must have: with another word a shorter one is another question
RIVALS: Final = 64  # held-out prompts that a row is compared with: of a template there may be thousands that share a band
SHORT: Final = np.uint64(32)

Sets = NDArray[np.uint64]
Places = NDArray[np.int64]
Bands = NDArray[np.uint32]


class NearPrompts:
    """`near_prompt`: training rows with a prompt whose Jaccard index with a held-out prompt reaches `least`.

    Of each row 73 bytes are held: 14 band hashes of 4 bytes, which only propose, key, place, split. Its 5-grams wait in a file.

    Args:
        least: Jaccard index from 0 to 1.
        folder: for a file without a name; None is the system's.
    """

    def __init__(self, least: float, folder: Path | None = None) -> None:
        self._least = least
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed with the last reference
        self._end = 0
        self._bands, self._keys, self._starts, self._held = (bytearray() for _ in range(4))

    def take(self, wide: pl.DataFrame) -> None:
        """Rows with `prompt`, `key` (a hash of it) and `split`; a system message is no part of what is compared."""
        if wide.is_empty():
            return
        folded = fold(*buffers(wide.select(asked().fill_null("")).to_series().to_arrow().cast(pa.large_string())))
        self._bands += (band_hashes(folded, BANDS, ROWS) >> SHORT).astype(np.uint32).tobytes()
        sets = shingles_of(folded)
        lengths = np.array([len(each) for each in sets], np.int64)
        self._starts += (self._end + np.cumsum(lengths) - lengths).tobytes()
        self._end += int(lengths.sum())
        self._file.write(np.concatenate(sets).tobytes())
        self._keys += wide["key"].to_numpy().tobytes()
        self._held += (wide["split"] == "holdout").to_numpy().tobytes()

    def hits(self) -> dict[str, NDArray[np.bool_]]:
        """A row whose prompt is held out itself is not hit."""
        keys, held = np.frombuffer(self._keys, np.uint64), np.frombuffer(self._held, np.bool_)
        found = np.zeros(len(keys), np.bool_)
        if not held.any() or held.all():
            return {"near_prompt": found}
        bands = np.frombuffer(self._bands, np.uint32).reshape(-1, BANDS)
        for row, rivals in _candidates(bands, np.flatnonzero(held), np.flatnonzero(~held & ~leaked(keys, held))):
            own = self._set(row)
            found[row] = len(own) >= SHINGLES and any(
                minhash.jaccard(own, other) >= self._least for rival in rivals if len(other := self._set(rival)) >= SHINGLES
            )
        return {"near_prompt": found}

    def _set(self, row: int) -> Sets:
        """The 5-grams of a row's prompt, sorted and each once."""
        starts = np.frombuffer(self._starts, np.int64)
        end = int(starts[row + 1]) if row + 1 < len(starts) else self._end
        self._file.seek(8 * int(starts[row]))
        return np.unique(np.frombuffer(self._file.read(8 * (end - int(starts[row]))), np.uint64))


def _candidates(bands: Bands, held: Places, training: Places) -> Iterator[tuple[int, list[int]]]:
    """Training rows that share a band with held-out ones, each with the first of these."""
    rivals: defaultdict[int, list[int]] = defaultdict(list)
    for band in range(BANDS):
        shared = np.intersect1d(bands[held, band], bands[training, band])
        by_hash: defaultdict[int, list[int]] = defaultdict(list)
        for row in held[is_among(bands[held, band], shared)].tolist():
            if len(by_hash[int(bands[row, band])]) < RIVALS:
                by_hash[int(bands[row, band])].append(row)
        for row in training[is_among(bands[training, band], shared)].tolist():
            if len(rivals[row]) < RIVALS:
                rivals[row] += by_hash[int(bands[row, band])]
    return ((row, sorted(set(found))[:RIVALS]) for row, found in sorted(rivals.items()))
