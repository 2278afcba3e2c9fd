"""How much of each source is used: rows or tokens in the proportion of the sources' weights, the same rows in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from posttrain.data.across import Hits
from posttrain.data.checks.personal import PARTS
from posttrain.data.sources import SourceFile
from posttrain.text import tokens
from schemas.sources import Weights

SEED: Final = 2  # of the hash: which rows are drawn has nothing to do with which are held out (`split`) or measured (`choose`)
BY_ROWS: Final = Weights()
HELD: Final = (pl.col("split") == "holdout").cast(pl.Int32)


class Mixture:
    """The share of each source, in 16 bytes a row where sources have weights; without weights all rows are kept.

    As much as the weights allow without a row coming twice: all of the source that is scarcest for its weight. The splits are
    mixed each for itself. Of a source the rows with the smallest hashes of file and number are drawn until its share is reached,
    so that a smaller share is a part of a larger one. By tokens the last row that would go beyond the share is left out, so that
    a source is below it by less than a row.

    Args:
        files: the files of the data set, with the group and the weight of each.
        weights: whether these are shares of rows or of tokens.
    """

    def __init__(self, files: Sequence[SourceFile], weights: Weights = BY_ROWS) -> None:
        self._files, self._by = files, weights
        self._weights = {file.group: file.weight for file in files if file.weight is not None}
        self._groups = {file.name: file.group for file in files}
        self._draws, self._sides, self._sizes = bytearray(), bytearray(), bytearray()
        self.left_out = 0
        self.summary: dict[str, Any] = {}
        """Empty without weights; else how many rows, and tokens where these count, of each source there were and are."""

    def take(self, rows: pl.DataFrame) -> None:
        """More rows, with `source` (the name of a file), `row` and `split`; by tokens, with the texts of `contract.features`."""
        if self._weights:
            places = zip(rows["source"], rows["row"], strict=True)
            draws = [xxhash.xxh3_64_intdigest(f"{source}:{row}".encode(), SEED) for source, row in places]
            sides = rows.select(2 * pl.col("source").replace_strict(self._groups, return_dtype=pl.Int32) + HELD).to_series()
            self._draws += np.array(draws, np.uint64).tobytes()
            self._sides += sides.to_numpy().astype(np.int32).tobytes()
            self._sizes += self._measured(rows).astype(np.uint32).tobytes()

    def _measured(self, rows: pl.DataFrame) -> NDArray[np.int64]:
        """What each row counts, shape (rows,)."""
        if self._by.by == "rows":
            return np.ones(rows.height, np.int64)
        texts = [rows[f"{part}_text"].fill_null("") for part in PARTS if f"{part}_text" in rows.columns]
        if self._by.tokenizer is None:
            return tokens.by_bytes(np.sum([each.str.len_bytes().to_numpy().astype(np.int64) for each in texts], axis=0))
        counts = [tokens.counted(each.to_list(), self._by.tokenizer) for each in texts]
        return np.asarray(np.sum(counts, axis=0), np.int64)

    def drawn(self, clean: Hits) -> Hits:
        """Of the clean rows those that are used, shape (rows,); sets `summary`."""
        if not self._weights:
            return clean
        draws, sides = np.frombuffer(self._draws, np.uint64), np.frombuffer(self._sides, np.int32)
        sizes = np.frombuffer(self._sizes, np.uint32).astype(np.int64)
        used = np.zeros_like(clean)
        for held in (0, 1):
            rows = {group: np.flatnonzero(clean & (sides == 2 * group + held)) for group in self._weights}
            shares = self._shares({group: int(sizes[each].sum()) for group, each in rows.items() if len(each)})
            for group, share in shares.items():
                order = rows[group][np.argsort(draws[rows[group]], kind="stable")]
                fitting = int(np.searchsorted(np.cumsum(sizes[order]), share, side="right"))
                used[order[: max(1, fitting)]] = True
        self.left_out = int(clean.sum() - used.sum())
        self.summary = {"left_out_by_weight": self.left_out, "mixture": self._counts(sides // 2, sizes, clean, used)}
        return used

    def _shares(self, sizes: dict[int, int]) -> dict[int, int]:
        """Rows or tokens of each group. One that has no row in this split takes none from the others."""
        scarcest = min((size / self._weights[group] for group, size in sizes.items()), default=0.0)
        return {group: int(scarcest * self._weights[group] * (1 + 1e-12) + 1e-9) for group in sizes}

    def _counts(self, groups: NDArray[np.int32], sizes: NDArray[np.int64], clean: Hits, used: Hits) -> list[dict[str, Any]]:
        first = {file.group: file for file in reversed(self._files)}
        return [
            {
                "source": file.name.split("/")[0],
                "weight": file.weight,
                "rows": int((groups[clean] == group).sum()),
                "used": int((groups[used] == group).sum()),
                **self._tokens(sizes, clean & (groups == group), used & (groups == group)),
            }
            for group, file in sorted(first.items())
        ]

    def _tokens(self, sizes: NDArray[np.int64], clean: Hits, used: Hits) -> dict[str, int]:
        if self._by.by == "rows":
            return {}
        return {"tokens": int(sizes[clean].sum()), "tokens_used": int(sizes[used].sum())}
