"""An object that holds a whole table, as pandas writes them: whose fields are columns, or rows."""

from __future__ import annotations

from typing import Any, Final

from posttrain.data.split import DECLARED

WRAPPERS: Final = ("data", "rows", "examples", "records", "items", "instances")
TURN: Final = ("role", "from", "content", "value")  # of a message: a list of such is one value, not one for each row
CELLS: Final = (str, int, float, list)  # as which a column begins; a list of objects, of nothing or of null may be one value
DEEPEST: Final = 2  # tables within each other, as a split within `data`


class Uneven(ValueError):
    """Columns of which no rows can be made, since they do not have the same rows."""


def by_columns(fields: dict[str, Any], tables_within: int = DEEPEST) -> list[dict[str, Any]] | None:
    """The rows of an object that holds whole columns or named rows, as pandas writes them; None where it is one row itself.

    Raises:
        Uneven: when rows are missing in some columns.

    `{"a": [1, 2], "b": [3, 4]}`; `{"a": {"0": 1, "1": 2}, …}`; `{"0": {"a": 1}, …}`; `{"columns": ["a"], "data": [[1], [2]]}`;
    and such tables inside `data` or by split, as a `DatasetDict` is written: `{"train": {"a": [1, 2]}, "test": {"a": [3]}}`,
    `tables_within` each other at most.
    """
    values = list(fields.values())
    if not values:
        return None
    names, table = fields.get("columns"), fields.get("data")
    if isinstance(names, list) and isinstance(table, list) and all(isinstance(row, list) for row in table):
        _refuse_names(names)
        return [dict(zip(names, row, strict=True)) for row in table if _fits(names, row)]
    if all(isinstance(each, dict) for each in values):
        if all(each and all(name.isdigit() for name in each) for each in values):
            if not any("0" in each for each in values) and any(each.keys() != values[0].keys() for each in values):
                return None  # numbers that a row counts by: pandas numbers rows from 0
            _refuse_uneven(fields)
            return [{name: column[at] for name, column in fields.items()} for at in values[0]]
        return values if all(name.isdigit() for name in fields) else _of_tables(fields, tables_within)
    if not all(isinstance(each, list) for each in values):
        return None
    if any(isinstance(each, dict) and each.keys() & set(TURN) for column in values for each in column[:1]):
        return None
    cells = all(each and isinstance(each[0], CELLS) for each in values)
    if tables_within == DEEPEST and not cells and len(set(map(len, values))) > 1:
        return None  # one row, with a list of messages, say, beside its tags
    _refuse_uneven(fields)
    return [dict(zip(fields, row, strict=True)) for row in zip(*values, strict=True)]


def _of_tables(fields: dict[str, dict[str, Any]], within: int) -> list[dict[str, Any]] | None:
    """The rows of tables whose names say that they are some, each with its split where it has one."""
    if not within or not all(name in WRAPPERS or name in DECLARED for name in fields):
        return None
    found: list[dict[str, Any]] = []
    for name, table in fields.items():
        rows = by_columns(table, within - 1)
        if rows is None:
            return None
        found += [row | {"split": name} for row in rows] if name in DECLARED else rows
    return found


def _refuse_names(names: list[Any]) -> None:
    """Raises `Uneven` when the columns of a table have no names, or one twice."""
    if odd := next((name for name in names if not isinstance(name, str)), None):
        raise Uneven(f"`columns` with {str(odd)[:60]}, which is no name")
    if len(set(names)) < len(names):
        raise Uneven("`columns` with a name that comes twice")


def _fits(names: list[Any], row: list[Any]) -> bool:
    """Whether a row has a value for each column.

    Raises:
        Uneven: when it does not.
    """
    if len(row) != len(names):
        raise Uneven(f"`columns` with {len(names):,} names, and a row of `data` with {len(row):,} values")
    return True


def _refuse_uneven(fields: dict[str, Any]) -> None:
    """Raises `Uneven` when columns do not have the same rows: an index, or as many values as another."""
    first = next(iter(fields.values()))
    if any(len(each) != len(first) for each in fields.values()):
        raise Uneven("columns of unequal length: " + ", ".join(f"`{name}` has {len(each):,}" for name, each in fields.items()))
    if isinstance(first, dict) and (odd := next((name for name, each in fields.items() if each.keys() != first.keys()), None)):
        raise Uneven(f"columns of different rows: `{odd}` has other numbers than `{next(iter(fields))}`")
