"""What is to be done where the rows of a file have no shape: by what the rows hold, the most frequent columns first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from posttrain.data.columns import EMPTY, example, plain_name, prepared, wrong_columns
from posttrain.data.containers.json_tables import Look, Uneven, table_of
from posttrain.data.containers.rows import shown
from posttrain.data.messages import WrongType
from posttrain.data.shapes import Elsewhere, Shape
from schemas.errors import Refusal
from schemas.reading import Reading

MOST_COLUMNS: Final = 200  # names that are remembered
MOST_LAYOUTS: Final = 20  # of which the first row is
DEEPEST: Final = 3  # objects within each other in which columns are looked for

Columns = Mapping[str, Any]
Hint = Callable[[Columns], Elsewhere | None]


def fitting(shapes: Sequence[Shape], there: Collection[str]) -> tuple[Shape, dict[str, str]] | None:
    """The first shape whose needs are there, and the columns by what `build` calls them."""
    return next(((shape, found) for shape in shapes if (found := shape.found(there)) is not None), None)


def readable(shapes: Sequence[Shape], row: dict[str, Any], reading: Reading) -> bool:
    """Whether something can be made of a row."""
    named = prepared(row, reading)
    there = [name for name, value in named.items() if value is not None]
    if not (fit := fitting(shapes, there) or fitting(shapes, named)):
        return False
    shape, found = fit
    if shape.gathers is not None:  # several rows make a record
        return all(not isinstance(named[name], list | dict) for name in found.values())
    try:
        shape.build(named | {known: named[name] for known, name in found.items()}, reading)
    except WrongType:
        return False
    return True


class Shapeless:
    """The rows of a file that have no shape.

    Args:
        shapes: those that the data set takes.
        hint: from the columns of a row that fit no shape to where such rows belong, or None.
        reading: what the recipe says about the columns.
    """

    def __init__(self, shapes: Sequence[Shape], hint: Hint, reading: Reading) -> None:
        self._shapes, self._hint, self._reading = shapes, hint, reading
        self.names: dict[str, None] = {}
        """Of the columns: a set that keeps the order of the file."""
        self._first: dict[tuple[tuple[str, type], ...], dict[str, Any]] = {}
        self._counts: dict[tuple[tuple[str, type], ...], int] = {}
        self.rows = 0

    def take(self, row: dict[str, Any]) -> None:
        """One more."""
        self.rows += 1
        if len(self.names) < MOST_COLUMNS:
            self.names |= dict.fromkeys(row)
        layout = tuple((name, type(value)) for name, value in row.items())
        if layout in self._first or len(self._first) < MOST_LAYOUTS:
            self._first.setdefault(layout, dict(row))
            self._counts[layout] = self._counts.get(layout, 0) + 1

    def refusal(self, file: str) -> Refusal:
        """What is found in the file, and what to do."""
        allowed = "; or ".join(dict.fromkeys(" + ".join(shape.needs) for shape in self._shapes))
        return Refusal(where=file, found=f"columns {shown(self.names)}", allowed=allowed, remedy=self._remedy())

    def _remedy(self) -> str:
        for layout in sorted(self._first, key=lambda each: -self._counts[each]):
            if said := self._of(self._first[layout]):
                count = self._counts[layout]
                return said if count == self.rows else f"of {count:,} of {self.rows:,} rows: {said}"
        if all(value in EMPTY for row in self._first.values() for value in row.values()):
            return "name a file that holds rows: these columns hold nothing"
        needs = [tuple(names[0] for names in shape.names) for shape in self._shapes]
        return wrong_columns(list(self.names), needs, self._plainest())

    def _of(self, row: dict[str, Any]) -> str | None:
        if hint := self._hint(row) or self._hint({plain_name(name): value for name, value in row.items()}):
            return hint.said
        return self._deeper(row) or self._in_tables(row)

    def _deeper(self, row: Columns, path: str = "", depth: int = DEEPEST) -> str | None:
        """Where a column holds an object with the columns of a shape, as pages of the hub's rows do: how to name these."""
        inside = {name: value for name, value in row.items() if isinstance(value, dict) and value}
        found = [
            (name, said) for name, value in inside.items() if (said := self._mapped(value, f"{path}{name}.", DEEPEST - depth))
        ]
        if len(found) > 1:
            return (
                f"there are rows inside {_quoted([name for name, _ in found])}: write each as a row of its own, one object a line"
            )
        if found:
            return found[0][1]
        further = [self._deeper(value, f"{path}{name}.", depth - 1) for name, value in inside.items() if depth > 1]
        if said := next(filter(None, further), None):
            return said
        if len(row) == len(inside) == 1 and not path:
            ((name, value),) = inside.items()
            if not all(isinstance(each, list | dict) or each in EMPTY for each in value.values()):
                named = example(self._plainest(), f"{name}.yours")
                return f"the columns are inside `{name}`: name them in columns, as {named}"
        return None

    def _mapped(self, columns: dict[str, Any], path: str, depth: int) -> str | None:
        """How columns inside an object are named, and where its rows belong, if they can be read."""
        hint = self._hint(columns)
        own = fitting(self._shapes, columns)
        first = own or fitting(hint.shapes if hint else (), columns)
        if first is None or not readable([first[0]], columns, Reading(ranking=self._reading.ranking)):
            return None
        inner, found = path.removesuffix("."), first[1]
        mapping = ", ".join(f"{known}: {path}{column}" for known, column in found.items())
        named = f"the columns are inside `{inner}`: name them in columns: {{{mapping}}}"
        if any("." in name for name in found.values()) or inner.count(".") != depth:
            named = f"the columns are inside `{inner}`: write them in the row itself"
        return f"{hint.said}; {named}" if hint and not own else named

    def _in_tables(self, row: Columns) -> str | None:
        """Where a column holds several rows, as a list or as a table: that each is to be written on its own."""
        held = [name for name, value in row.items() if self._holds_rows(value, DEEPEST)]
        if not held:
            return None
        return f"there are rows inside {_quoted(held)}: write each as a row of its own, one object a line"

    def _holds_rows(self, value: Any, depth: int) -> bool:
        inside = [row for row in (value, *_rows_in(value)) if isinstance(row, dict)]
        return any(
            self._is_row(row) or (depth > 1 and any(self._holds_rows(each, depth - 1) for each in row.values())) for row in inside
        )

    def _is_row(self, row: dict[str, Any]) -> bool:
        hint = self._hint(row)
        there = (*self._shapes, *(hint.shapes if hint else ()))
        return readable(there, row, self._reading) or (hint is not None and not hint.shapes)

    def _plainest(self) -> tuple[str, ...]:
        """The columns of the first shape of text that has a prompt by that name."""
        plain = next(shape for shape in self._shapes if shape.usual and shape.names[0][0] == "prompt")
        return tuple(names[0] for names in plain.names)


def _rows_in(value: Any) -> Sequence[Any]:
    """The first of the rows that a column holds, or of each table in it."""
    if isinstance(value, list):
        return value[:1]
    if not isinstance(value, dict):
        return ()
    try:
        table = table_of(value, Look())
    except Uneven:
        return ()
    found = table.rows[:1] if table else []
    return found or list(chain.from_iterable(_rows_in(each) for each in value.values() if isinstance(each, list)))


def _quoted(names: Sequence[str]) -> str:
    return shown([f"`{name}`" for name in names])
