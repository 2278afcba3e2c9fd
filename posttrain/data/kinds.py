"""The kinds of data sets that the contract knows: how their rows are brought into normal form, and what is checked on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from posttrain.data import contract, conversations, preferences
from posttrain.data.across import Across, Repeats
from posttrain.data.contract import RowCheck
from posttrain.data.file_rows import FileRows, Hint
from posttrain.data.readers import OnBad, Row
from posttrain.data.shapes import Shape, Tally
from schemas.reading import Reading


@dataclass(frozen=True)
class Kind:
    """One kind of data set: its normal form and its contract."""

    normalise: Callable[[Iterable[Row], str, OnBad, Reading, Tally | None], Iterator[dict[str, Any]]]
    hint: Hint
    columns: dict[str, pl.DataType | type[pl.DataType]]
    checks: tuple[RowCheck, ...]
    shapes: tuple[Shape, ...]
    across: tuple[Callable[[], Across], ...] = (Repeats,)
    """What finds the hits of those checks that need all rows."""

    def rows_of(self, file: str, on_bad: OnBad, reading: Reading, tally: Tally) -> FileRows:
        """What makes records of the rows of a file."""
        return FileRows(file, self.shapes, on_bad, reading, tally, self.hint)


KINDS: Final = {
    "preferences": Kind(
        preferences.normalise, preferences.hint, preferences.COLUMNS, contract.PREFERENCE_CHECKS, preferences.SHAPES
    ),
    "instructions": Kind(
        conversations.normalise, conversations.hint, conversations.COLUMNS, contract.CONVERSATION_CHECKS, conversations.SHAPES
    ),
}
