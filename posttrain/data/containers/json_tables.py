"""An object that holds a whole table, as pandas writes them: whose fields are columns, or rows."""

from __future__ import annotations

from typing import Any, Final

from posttrain.data.split import DECLARED

WRAPPERS: Final = ("data", "rows", "examples", "records", "items", "instances")
TURN: Final = ("role", "from", "content", "value")  # of a message: a list of such is one value, not one for each row


class Uneven(ValueError):
    """Columns of which no rows can be made, since they do not have the same rows."""


def by_columns(fields: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object that holds whole columns or named rows, as pandas writes them; None where it is one row itself.

    Raises:
        Uneven: when rows are missing in some columns.

    `{"a": [1, 2], "b": [3, 4]}`; `{"a": {"0": 1, "1": 2}, …}`; `{"0": {"a": 1}, …}`; `{"columns": ["a"], "data": [[1], [2]]}`;
    and such tables inside `data` or by split, as a `DatasetDict` is written: `{"train": {"a": [1, 2]}, "test": {"a": [3]}}`.
    """
    values = list(fields.values())
    if not values:
        return None
    names, table = fields.get("columns"), fields.get("data")
    if isinstance(names, list) and isinstance(table, list) and all(isinstance(row, list) for row in table):
        return [dict(zip(names, row, strict=True)) for row in table if _fits(names, row)]
    if all(isinstance(each, dict) for each in values):
        if all(each and all(name.isdigit() for name in each) for each in values):
            _refuse_uneven(fields)
            return [{name: column[at] for name, column in fields.items()} for at in values[0]]
        return values if all(name.isdigit() for name in fields) else _of_tables(fields)
    if not all(isinstance(each, list) for each in values):
        return None
    if any(isinstance(each, dict) and each.keys() & set(TURN) for column in values for each in column[:1]):
        return None
    _refuse_uneven(fields)
    return [dict(zip(fields, row, strict=True)) for row in zip(*values, strict=True)]


def _of_tables(fields: dict[str, dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The rows of tables whose names say that they are some, each with its split where it has one."""
    if not all(name in WRAPPERS or name in DECLARED for name in fields):
        return None
    found: list[dict[str, Any]] = []
    for name, table in fields.items():
        rows = by_columns(table)
        if rows is None:
            return None
        found += [row | {"split": name} for row in rows] if name in DECLARED else rows
    return found


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
