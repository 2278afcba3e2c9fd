"""The two passes of a contract, in bounded memory: rows are judged as they come, and decided when all of them have been seen."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.across import Across, Hits
from posttrain.data.contract import SIDES, RowCheck, features

IN_MEMORY: Final = 256 << 20  # bytes of rows that wait in memory; more wait on disk
HIT, LENGTH, SPLIT = "hit/", "length/", "split/"  # columns beside those of a row: hits, lengths and the split


@dataclass(frozen=True)
class Decided:
    """What becomes of some rows."""

    clean: pl.DataFrame
    """The rows kept, with `split` resolved to train or holdout."""
    dropped: pl.DataFrame
    """`file`, `row`, `reasons` (all of them), `values` (JSON text)."""
    lengths: pl.DataFrame
    """Characters of each side of the rows that no check drops."""
    rows: pl.DataFrame
    """All of them: `source` and `row`."""
    hits: pl.DataFrame
    """A truth value for each row and check."""


class Passes:
    """One data set on its way through its contract.

    Args:
        checks: the contract.
        across: what finds the hits of the checks without an expression.
        holdout: part of the prompts to hold out.
        folder: for rows that wait, beyond `IN_MEMORY` bytes.
    """

    def __init__(self, checks: Sequence[RowCheck], across: Sequence[Across], holdout: float, folder: Path) -> None:
        self._checks, self._across, self._holdout = checks, across, holdout
        self._waiting = Waiting(folder)
        self._bad = bytearray()
        self._dropping = [check.name for check in checks if check.severity == "drop"]

    def take(self, table: pl.DataFrame) -> pl.DataFrame:
        """Judge rows in normal form by the checks of single rows, and keep them; gives their `features`."""
        wide = features(table, self._holdout)
        hits = wide.select(c.hit.fill_null(False).alias(c.name) for c in self._checks if c.hit is not None)
        hits = hits.with_columns(pl.Series(c.name, c.find(wide), pl.Boolean) for c in self._checks if c.find is not None)
        for each in self._across:
            each.take(wide)
        lengths = [length.alias(LENGTH + side) for side, length in lengths_of(table.columns).items()]
        more = wide.select(pl.col("split").alias(SPLIT), *lengths)
        bad = hits.select(pl.any_horizontal(pl.col(each for each in self._dropping if each in hits.columns))).to_series()
        self._bad += bad.to_numpy().tobytes()
        self._waiting.add(pl.concat([table, more, hits.rename(lambda name: HIT + name)], how="horizontal"))
        return wide

    def decided(self, drawn: Callable[[Hits], Hits] = np.asarray) -> Iterator[Decided]:
        """What becomes of the rows, in their order.

        Args:
            drawn: from the rows that no check drops to those that are kept, shape (rows,).
        """
        across = {name: found for each in self._across for name, found in each.hits().items()}
        clean = np.frombuffer(self._bad, np.bool_) == 0
        for name in set(across) & set(self._dropping):
            clean &= ~across[name]
        kept = drawn(clean)
        start = 0
        for part in self._waiting:
            some = slice(start, start + part.height)
            start += part.height
            more = [pl.Series(name, found[some]) for name, found in across.items()]
            yield self._decide(part, more, clean[some], kept[some])

    def _decide(self, part: pl.DataFrame, more: list[pl.Series], clean: NDArray[np.bool_], kept: NDArray[np.bool_]) -> Decided:
        beside = pl.selectors.starts_with(HIT, LENGTH, SPLIT)
        table = part.select(~beside)
        found = part.select(pl.selectors.starts_with(HIT)).rename(lambda name: name.removeprefix(HIT)).with_columns(more)
        hits, good, bad = found.select(check.name for check in self._checks), pl.Series(clean), pl.Series(~clean)
        return Decided(
            clean=table.with_columns(part[SPLIT].alias("split")).filter(pl.Series(kept)),
            dropped=_quarantined(table.filter(bad), hits.filter(bad).select(self._dropping)),
            lengths=part.filter(good).select(pl.selectors.starts_with(LENGTH)).rename(lambda name: name.removeprefix(LENGTH)),
            rows=table.select("source", "row"),
            hits=hits,
        )


def _quarantined(rows: pl.DataFrame, hits: pl.DataFrame) -> pl.DataFrame:
    """Each dropped row with all its reasons and its values."""
    values = pl.struct(pl.exclude("source", "row")).struct.json_encode()
    reasons = pl.concat_list(pl.when(name).then(pl.lit(name)) for name in hits.columns).list.drop_nulls()
    return rows.select(pl.col("source").alias("file"), "row", values.alias("values")).with_columns(
        hits.select(reasons.alias("reasons")).to_series()
    )


def lengths_of(columns: Sequence[str]) -> dict[str, pl.Expr]:
    """Characters of each side of a row; of an answer with a label, those of the side that it is on, and null on the other."""
    if "label" in columns:
        length, good = pl.col("completion_text").str.len_chars(), pl.col("label")
        return {"desirable": pl.when(good).then(length), "undesirable": pl.when(~good).then(length)}
    return {side: pl.col(f"{side}_text").str.len_chars() for side in SIDES if side in columns}


class Waiting:
    """Tables of one schema in their order: in memory, and from some size on in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._held, self._size = folder, list[pl.DataFrame](), 0
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def add(self, table: pl.DataFrame) -> None:
        """One more."""
        self._held.append(table)
        self._size += int(table.estimated_size())
        if self._size > IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        """Write what is in memory; Arrow's own format, since it costs least."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # lives as long as this object
            self._writer = pa.ipc.new_stream(self._file, self._held[0].to_arrow().schema)
        for table in self._held:
            self._writer.write_table(table.to_arrow())
        self._held, self._size = [], 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """All of them, once; a table from the file may come in parts."""
        if self._file is not None:
            self._writer.close()
            self._file.seek(0)
            for batch in pa.ipc.open_stream(self._file):
                yield pl.DataFrame(pa.Table.from_batches([batch]))
            self._file.close()
        while self._held:
            yield self._held.pop(0)
