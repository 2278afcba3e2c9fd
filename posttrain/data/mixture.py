"""How much of each source is used: rows in the proportion of the sources' weights, the same ones in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from posttrain.data.across import Hits
from posttrain.data.sources import SourceFile

SEED: Final = 2  # of the hash: which rows are drawn has nothing to do with which are held out (`split`) or measured (`choose`)
HELD: Final = (pl.col("split") == "holdout").cast(pl.Int32)


class Mixture:
    """The share of each source, in 10 bytes a row where sources have weights; without weights all rows are kept.

    As many rows as the weights allow without a row coming twice: all of the source that is scarcest for its weight. The splits
    are mixed each for itself. Of a source the rows with the smallest hashes of file and number are drawn, so that a smaller share
    is a part of a larger one.

    Args:
        files: the files of the data set, with the group and the weight of each.
    """

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files
        self._weights = {file.group: file.weight for file in files if file.weight is not None}
        self._groups = {file.name: file.group for file in files}
        self._draws, self._sides = bytearray(), bytearray()
        self.left_out = 0
        self.summary: dict[str, Any] = {}
        """Empty without weights; else how many rows of each source there were and are."""

    def take(self, rows: pl.DataFrame) -> None:
        """More rows, with `source` (the name of a file), `row` and `split`."""
        if self._weights:
            places = zip(rows["source"], rows["row"], strict=True)
            draws = [xxhash.xxh3_64_intdigest(f"{source}:{row}".encode(), SEED) for source, row in places]
            sides = rows.select(2 * pl.col("source").replace_strict(self._groups, return_dtype=pl.Int32) + HELD).to_series()
            self._draws += np.array(draws, np.uint64).tobytes()
            self._sides += sides.to_numpy().astype(np.int32).tobytes()

    def drawn(self, clean: Hits) -> Hits:
        """Of the clean rows those that are used, shape (rows,); sets `summary`."""
        if not self._weights:
            return clean
        draws, sides = np.frombuffer(self._draws, np.uint64), np.frombuffer(self._sides, np.int32)
        used = np.zeros_like(clean)
        for held in (0, 1):
            rows = {group: np.flatnonzero(clean & (sides == 2 * group + held)) for group in self._weights}
            for group, share in self._shares({group: len(each) for group, each in rows.items() if len(each)}).items():
                used[rows[group][np.argsort(draws[rows[group]], kind="stable")[:share]]] = True
        self.left_out = int(clean.sum() - used.sum())
        self.summary = {"left_out_by_weight": self.left_out, "mixture": self._counts(sides[clean] // 2, sides[used] // 2)}
        return used

    def _shares(self, sizes: dict[int, int]) -> dict[int, int]:
        """Rows of each group. One that has no row in this split takes none from the others."""
        scarcest = min((size / self._weights[group] for group, size in sizes.items()), default=0.0)
        return {group: max(1, int(scarcest * self._weights[group] + 1e-9)) for group in sizes}

    def _counts(self, before: NDArray[np.int32], after: NDArray[np.int32]) -> list[dict[str, Any]]:
        first = {file.group: file for file in reversed(self._files)}
        return [
            {
                "source": file.name.split("/")[0],
                "weight": file.weight,
                "rows": int((before == group).sum()),
                "used": int((after == group).sum()),
            }
            for group, file in sorted(first.items())
        ]
