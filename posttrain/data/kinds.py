"""The kinds of data sets that the contract knows: how their rows are brought into normal form, and what is checked on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from posttrain.data import contract, conversations, feedback, preferences, prompts
from posttrain.data.across import Across, Repeats
from posttrain.data.columns import MEANINGFUL
from posttrain.data.contract import RowCheck
from posttrain.data.file_rows import FileRows
from posttrain.data.readers import OnBad, Row
from posttrain.data.remedies import Hint, readable
from posttrain.data.shapes import Record, Shape, Tally
from schemas.reading import AS_READ, Reading


@dataclass(frozen=True)
class Kind:
    """One kind of data set: its normal form and its contract."""

    columns: dict[str, pl.DataType | type[pl.DataType]]
    checks: tuple[RowCheck, ...]
    shapes: tuple[Shape, ...]
    hint: Hint = lambda row: None
    carries: bool = False
    across: tuple[Callable[[], Across], ...] = (Repeats,)
    """What finds the hits of those checks that need all rows."""

    def known(self, reading: Reading) -> frozenset[str]:
        """Columns that its rows may be made of, by the names that they have in the file, and those that may not be left out."""
        mapped = (name.split(".")[0] for name in reading.columns.values())
        return frozenset(MEANINGFUL).union(mapped, *(shape.claims for shape in self.shapes))

    def fits(self, reading: Reading) -> Callable[[dict[str, Any]], bool]:
        """Whether something can be made of a row of its files."""
        return lambda row: readable(self.shapes, row, reading)

    def rows_of(self, file: str, on_bad: OnBad, reading: Reading, tally: Tally) -> FileRows:
        """What makes records of the rows of a file."""
        return FileRows(file, self.shapes, on_bad, reading, tally, self.hint, self.carries)

    def normalise(
        self, rows: Iterable[Row], file: str, on_bad: OnBad, reading: Reading = AS_READ, tally: Tally | None = None
    ) -> Iterator[Record]:
        """Rows of one file → records with `columns`; `split` is as declared, or None. Raises what `FileRows` does."""
        reader = self.rows_of(file, on_bad, reading, tally or Tally())
        for number, row in rows:
            yield from reader.take(number, row)
        yield from reader.close()


KINDS: Final = {
    "preferences": Kind(preferences.COLUMNS, contract.PREFERENCE_CHECKS, preferences.SHAPES, preferences.hint),
    "feedback": Kind(feedback.COLUMNS, contract.FEEDBACK_CHECKS, feedback.SHAPES, feedback.hint),
    "instructions": Kind(conversations.COLUMNS, contract.CONVERSATION_CHECKS, conversations.SHAPES, conversations.hint),
    "prompts": Kind(prompts.COLUMNS, contract.PROMPT_CHECKS, prompts.SHAPES, prompts.hint, carries=True),
}
