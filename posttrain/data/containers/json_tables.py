"""An object that holds a whole table, as pandas writes them: whose fields are columns, or rows, or tables by split.

What is a table may be a row with lists as well. Where its fields leave that open, it is a row if something can be made of it, and
a table only if something can be made of the first row of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from posttrain.data.split import DECLARED, in_part

WRAPPERS: Final = ("data", "rows", "examples", "records", "items", "instances")
TURN: Final = ("role", "from", "content", "value")  # of a message: a list of such is one value, not one for each row
CELLS: Final = (str, int, float, list)  # as which a column begins; a list of objects, of nothing or of null may be one value
DEEPEST: Final = 3  # tables within each other, as `data` within a split within `data`
NAMED: Final = 5  # columns, in a message
LONGEST_NAME: Final = 60  # characters, in the same
NAMES: Final = "give each column a name of its own, as text, or write one object a row"
EMPTY: Final[tuple[Any, ...]] = (None, [], {})
Fields = dict[str, Any]


class Uneven(ValueError):
    """Columns of which no rows can be made, since they do not have the same rows; and what to do, if not what that asks for."""

    def __init__(self, why: str, remedy: str | None = None) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True)
class Table:
    """The rows that an object holds."""

    rows: list[Any]
    """Objects; and elements of a list of such that are none."""
    beside: tuple[str, ...] = ()
    """Fields that hold something and are no part of the rows."""


@dataclass(frozen=True)
class Look:
    """What tells rows from tables where an object may be both."""

    known: frozenset[str] = frozenset()
    """Columns that rows may be made of."""
    fits: Callable[[Fields], bool] | None = None
    """Whether something can be made of a row; None where nobody can say."""
    alone: bool = True
    """Whether nothing follows the object in its file."""
    within: int = DEEPEST
    """Tables that may be within this one."""

    def is_row(self, fields: Fields) -> bool:
        """Whether an object is a row rather than a table with something beside it."""
        return self.fits is None or self.fits(fields)

    def is_table(self, fields: Fields, first: Any) -> bool:
        """Whether it is no row, but its first row would be one."""
        return not self.is_row(fields) and isinstance(first, dict) and self.is_row(first)


def table_of(fields: Fields, look: Look) -> Table | None:
    """What an object holds; None where it is one row itself.

    Raises:
        Uneven: when rows are missing in some columns.

    `{"a": [1, 2], "b": [3, 4]}`; `{"a": {"0": 1, "1": 2}, …}`; `{"0": {"a": 1}, …}`; `{"columns": ["a"], "data": [[1], [2]]}`;
    and such tables inside `data` or by split, as a `DatasetDict` is written: `{"train": {"a": [1, 2]}, "test": {"a": [3]}}`,
    `look.within` each other at most. A split may be a row, too.
    """
    ways = (_by_names_of_columns, _by_parts, _by_lists, _by_indices, _by_numbers) if fields else ()
    return next((table for way in ways if (table := way(fields, look)) is not None), None)


def rows_beside(fields: Fields, look: Look) -> Table:
    """The rows in fields beside others whose rows have been read already."""
    parts = _parts(fields, look, sure=False)
    return Table(_with_splits(parts), _beside(fields, parts))


def _by_names_of_columns(fields: Fields, look: Look) -> Table | None:
    """`{"columns": ["a"], "data": [[1], [2]]}`, and what stands beside them: a column where it has a value for each row."""
    names, table = fields.get("columns"), fields.get("data")
    if not (isinstance(names, list) and isinstance(table, list) and all(isinstance(row, list) for row in table)):
        return None
    others = {name: value for name, value in fields.items() if name not in ("columns", "data") and value not in EMPTY}
    if (not table and not look.alone) or (others and look.fits is not None and look.fits(fields)):
        return None
    _refuse_names(names)
    rows = [dict(zip(names, row, strict=True)) for row in table if _fits(names, row)]
    index = others.get("index")  # pandas numbers rows where they have no names
    if index == list(range(len(rows))):
        del others["index"]
    more = {name: each for name, each in others.items() if isinstance(each, list) and len(each) == len(rows)}
    more = {name: each for name, each in more.items() if name not in names}
    rows = [row | {name: column[at] for name, column in more.items()} for at, row in enumerate(rows)] if more else rows
    return _spread(rows, {name: value for name, value in others.items() if name not in more}, look)


def _spread(rows: list[Fields], others: Fields, look: Look) -> Table:
    """Rows with what is one value beside them where rows are made of such columns; the rest is named.

    Raises:
        Uneven: when such a column has another number of values.
    """
    known = {name: value for name, value in others.items() if name in look.known and value not in EMPTY}
    for name, value in known.items():
        if isinstance(value, list):
            raise Uneven(f"`{name}` with {len(value):,} values beside {len(rows):,} rows")
    beside = tuple(name for name, value in others.items() if name not in known and value not in EMPTY)
    return Table([known | row for row in rows] if known else rows, beside)


def _by_parts(fields: Fields, look: Look) -> Table | None:
    """Tables whose names say that they are some, each with its split where it has one."""
    sure = all(map(_is_part, fields))
    if not look.within or not any(map(_is_part, fields)) or (not sure and look.is_row(fields)):
        return None
    parts = _parts(fields, look, sure)
    rows, beside = _with_splits(parts), _beside(fields, parts)
    if not rows:
        return Table([]) if look.alone and len(parts) == len(fields) else None
    first = next((row for row in rows if isinstance(row, dict)), {})
    if look.is_table(fields, first):
        return Table(rows, beside)
    # Columns that the recipe has yet to name make neither a row nor a table; those inside of parts may be named already.
    named = look.fits is not None and look.fits(fields)
    mixed = len(parts) < len(fields) and (look.fits is None or not look.known.isdisjoint(beside))
    return None if (named and not look.is_row(first)) or mixed else Table(rows, beside)


def _is_part(name: str) -> bool:
    return name in WRAPPERS or name in DECLARED


def _parts(fields: Fields, look: Look, sure: bool) -> dict[str, Table]:
    """The rows of each field that is named as tables are and holds some, or nothing; `sure` if there is nothing else."""
    found = {name: _part(name, value, look, sure) for name, value in fields.items() if _is_part(name)}
    return {name: table for name, table in found.items() if table is not None}


def _part(name: str, value: Any, look: Look, sure: bool) -> Table | None:
    if value in EMPTY:
        return Table([])
    if isinstance(value, list):
        if name in DECLARED and all(isinstance(each, list) and any(isinstance(cell, str) for cell in each) for each in value):
            raise Uneven(f"`{name}` with lists in the place of rows")
        return Table(value) if any(isinstance(each, dict) for each in value) and not _is_turns(value) else None
    if not isinstance(value, dict):
        return None
    try:
        table = table_of(value, replace(look, within=look.within - 1, alone=True))
    except Uneven:
        if sure or name in DECLARED:
            raise
        return None
    one = name in DECLARED and look.alone and (sure or (look.fits is not None and look.fits(value)))
    return Table([value]) if table is None and one else table


def _with_splits(parts: dict[str, Table]) -> list[Any]:
    """The rows of all, with the split that the name of a part says."""
    return [
        in_part(row, name) if name in DECLARED and isinstance(row, dict) else row
        for name, table in parts.items()
        for row in table.rows
    ]


def _beside(fields: Fields, parts: dict[str, Table]) -> tuple[str, ...]:
    """Fields that hold something and are in no part, also those inside of parts."""
    inside = (f"{name}.{each}" for name, table in parts.items() for each in table.beside)
    return (*(name for name, value in fields.items() if name not in parts and value not in EMPTY), *inside)


def _by_lists(fields: Fields, look: Look) -> Table | None:
    """`{"a": [1, 2], "b": [3, 4]}`."""
    lists = {name: value for name, value in fields.items() if isinstance(value, list)}
    if not lists or any(map(_is_turns, lists.values())):
        return None
    others = {name: value for name, value in fields.items() if name not in lists}
    first = {name: column[0] for name, column in lists.items() if column}
    if not first:
        return Table([]) if look.alone and not others else None  # before other objects it is a row of empty lists
    cells = len(first) == len(lists) and all(isinstance(each, CELLS) for each in first.values())
    open_ = look.within == DEEPEST and not cells and len(set(map(len, lists.values()))) > 1
    if (others or open_) and not look.is_table(fields, first):
        return None  # one row, with a list of messages, say, beside its tags
    _refuse_uneven(lists)
    return _spread([dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)], others, look)


def _is_turns(column: list[Any]) -> bool:
    return any(isinstance(each, dict) and not each.keys().isdisjoint(TURN) for each in column[:1])


def _by_indices(fields: Fields, look: Look) -> Table | None:
    """`{"a": {"0": 1, "1": 2}, …}`."""
    columns = {
        name: value for name, value in fields.items() if isinstance(value, dict) and value and all(map(str.isdigit, value))
    }
    if not columns:
        return None
    one = next(iter(columns.values()))
    if not any("0" in each for each in columns.values()) and any(each.keys() != one.keys() for each in columns.values()):
        return None  # numbers that a row counts by: pandas numbers rows from 0
    others = {name: value for name, value in fields.items() if name not in columns}
    if others and not look.is_table(fields, {name: next(iter(column.values())) for name, column in columns.items()}):
        return None
    _refuse_uneven(columns | {name: value for name, value in others.items() if value == {}})
    return _spread([{name: column[at] for name, column in columns.items()} for at in one], others, look)


def _by_numbers(fields: Fields, look: Look) -> Table | None:
    """`{"0": {"a": 1}, "1": {"a": 2}}`."""
    rows = [value for name, value in fields.items() if name.isdigit()]
    if not any(isinstance(row, dict) for row in rows):
        return None
    beside = tuple(name for name, value in fields.items() if not name.isdigit() and value not in EMPTY)
    return Table(rows, beside) if len(rows) == len(fields) or look.is_table(fields, rows[0]) else None


def _refuse_names(names: list[Any]) -> None:
    """Raises `Uneven` when the columns of a table have no names, or one twice."""
    if odd := next((name for name in names if not isinstance(name, str)), None):
        raise Uneven(f"`columns` with {str(odd)[:LONGEST_NAME]}, which is no name", NAMES)
    if len(set(names)) < len(names):
        raise Uneven("`columns` with a name that comes twice", NAMES)


def _fits(names: list[Any], row: list[Any]) -> bool:
    """Whether a row has a value for each column.

    Raises:
        Uneven: when it does not.
    """
    if len(row) != len(names):
        raise Uneven(f"`columns` with {len(names):,} names, and a row of `data` with {len(row):,} values")
    return True


def _refuse_uneven(columns: Fields) -> None:
    """Raises `Uneven` when columns do not have the same rows: an index, or as many values as another."""
    (name, first), *others = columns.items()
    if odd := [other for other, each in others if len(each) != len(first)]:
        said = ", ".join(f"`{each[:LONGEST_NAME]}` has {len(columns[each]):,}" for each in (name, *odd[:NAMED]))
        more = f", and {len(odd) - NAMED:,} more have another number than the first" if len(odd) > NAMED else ""
        raise Uneven(f"columns of unequal length: {said}{more}")
    if isinstance(first, dict) and (odd := [other for other, each in others if each.keys() != first.keys()]):
        raise Uneven(f"columns of different rows: `{odd[0][:LONGEST_NAME]}` has other numbers than `{name[:LONGEST_NAME]}`")
