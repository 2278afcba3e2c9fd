"""Shapes of rows: which columns make one, which others it reads, and what is counted of them."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.columns import CONTEXT
from posttrain.data.containers.rows import shown
from schemas.reading import Reading

MOST_UNREAD: Final = 20  # columns that have a sentence of their own
Record = dict[str, Any]
Build = Callable[[dict[str, Any], Reading], Record | list[Record]]
Usual = Callable[[dict[str, Any]], Record | None]
Taken = NDArray[np.bool_]
Made = tuple[Taken, dict[str, pa.Array]]
"""Which rows are usual, and columns of the normal form of these."""
Columnar = Callable[[Mapping[str, pa.Array]], Made | None]
"""From the columns of rows, none of them null; None where they are of other types than it takes."""


@dataclass(frozen=True)
class Shape:
    """A layout of rows.

    Args:
        name: what people call it.
        needs: columns that a row must have. `prompt|query` is either; the row of `build` has it under the first of the names.
        build: from a row to one record in normal form, or to several.
        also: columns that it reads where they are there, beside those of `columns.CONTEXT`.
        becomes: the normal form in words.
        gathers: column whose neighbours with an equal value are built as one: the row of `build` then has them in `rows`.
        plain: column of the normal form → role and needed column, where a text in each is one message each (`plain_rows.py`).
        usual: what `build` makes of a row, without its scores, or None for one that is not plainly usual (`usual.py`).
        columnar: the same of whole columns (`usual_columns.py`).
    """

    name: str
    needs: tuple[str, ...]
    build: Build
    also: tuple[str, ...] = ()
    becomes: str = ""
    gathers: str | None = None
    plain: Mapping[str, tuple[str, str]] | None = None
    usual: Usual | None = None
    columnar: Columnar | None = None

    @functools.cached_property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The names of each column that it needs, the first of which `build` knows."""
        return tuple(tuple(need.split("|")) for need in self.needs)

    @functools.cached_property
    def claims(self) -> frozenset[str]:
        """All columns that it may read."""
        return frozenset((*itertools.chain.from_iterable(self.names), *self.also, *CONTEXT, "split"))

    def found(self, columns: Collection[str]) -> dict[str, str] | None:
        """What `build` calls a needed column → what the row does; None where one is missing."""
        pairs = {names[0]: next((name for name in names if name in columns), None) for names in self.names}
        return None if None in pairs.values() else {known: str(name) for known, name in pairs.items()}


@dataclass(frozen=True)
class Elsewhere:
    """Rows that belong into another data set: what is said of them, and the shapes that they may have there."""

    said: str
    shapes: tuple[Shape, ...] = ()
    richer: bool = False
    """Whether they say more there, so that a person is told of it where they are read here, too."""


@dataclass
class Tally:
    """What is said about a data set beside its rows."""

    shapes: Counter[str] = field(default_factory=Counter)
    """Rows by shape."""
    unread: Counter[str] = field(default_factory=Counter)
    """Rows in which a column that nothing reads holds something, by its name."""
    read: int = 0
    """Rows of files."""
    taken: int = 0
    """Those that are in records."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was done to rows on the way, as a sentence with `{count}` in it."""

    def as_json(self, records: int) -> dict[str, Any]:
        """For the summary: `file_rows` where they are not as many as the records and the rows that became none."""
        rows = {"file_rows": self.read} if self.read != records else {}
        return {**rows, "shapes": dict(self.shapes), "unread_columns": dict(self.unread), "notices": self.sentences()}

    def sentences(self) -> list[str]:
        """Everything that a person should know, the columns first."""
        named = list(self.unread.items())
        said = [
            f"column `{name}` is not read ({count:,} rows), but by functions that take rows: list it in `ignore`, or name it in "
            "`columns`"
            for name, count in named[:MOST_UNREAD]
        ]
        if more := [name for name, _ in named[MOST_UNREAD:]]:
            said.append(f"{len(more):,} more columns are not read, but by functions that take rows: {shown(more)}")
        return said + [note.format(count=f"{count:,}") for note, count in self.notes.items()]
