"""Shapes of rows: which columns make one, which others it reads, and how a file's rows become records in normal form."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from posttrain.data.columns import CONTEXT, EMPTY, MEDIA, check_columns, prepared, refuse_unread, wrong_columns
from posttrain.data.context import in_context
from posttrain.data.messages import WrongType
from posttrain.data.readers import BadRow, OnBad, Row
from schemas.errors import Refusal
from schemas.reading import AS_READ, Reading

MOST_COLUMNS: Final = 200  # names of columns that are remembered, and shown where no shape fits

Record = dict[str, Any]
Hint = Callable[[Collection[str]], str | None]
Build = Callable[[dict[str, Any], Reading], Record | list[Record]]


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
    """

    name: str
    needs: tuple[str, ...]
    build: Build
    also: tuple[str, ...] = ()
    becomes: str = ""
    gathers: str | None = None

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
        said = [
            f"column `{name}` is not read ({count:,} rows), but by functions that take rows: list it in `ignore`, or name it in "
            "`columns`"
            for name, count in self.unread.items()
        ]
        return said + [note.format(count=f"{count:,}") for note, count in self.notes.items()]


def normalise_shapes(
    rows: Iterable[Row],
    file: str,
    shapes: Sequence[Shape],
    on_bad: OnBad,
    reading: Reading = AS_READ,
    tally: Tally | None = None,
    hint: Hint = lambda columns: None,
    carries: bool = False,
) -> Iterator[Record]:
    """Build each row by the first shape whose columns it has; rows without one, or with a wrong type, go to `on_bad`.

    A shape whose columns hold something is preferred to one whose columns are null. Records have `source`, `row` (that of the
    first row, where several make a record) and `split` as declared or None, `extra` (the columns that the shape does not read).

    Args:
        rows: number and columns of each row.
        file: their name.
        shapes: those that the data set takes, the first that fits first.
        on_bad: takes the rows that cannot be used.
        reading: what the recipe says about the columns.
        tally: takes what is to be said beside the records.
        hint: from columns that fit no shape to where such rows belong, or None.
        carries: whether columns that no shape reads are what rewards go by, under any name, so that only media are refused.

    Raises:
        Refusal: when there were rows and none had the columns of a shape, when columns that nothing reads would change what the
            rows mean, and when `reading` maps to or from a column that is not there.
    """
    if not carries:
        check_columns(reading, (name for shape in shapes for name in shape.claims), file)
    reader = _File(file, shapes, on_bad, reading, tally or Tally(), hint, carries)
    for number, row in rows:
        yield from reader.take(number, row)
    yield from reader.close()


@dataclass(frozen=True)
class _Fit:
    """A shape that rows with the same columns have."""

    shape: Shape
    read: frozenset[str]
    """Columns that the shape needs, by the names of the row."""
    renamed: dict[str, str]
    """What `build` calls a column → what the row does, where they differ."""
    unread: tuple[str, ...]
    """Columns that the shape does not read."""
    context: bool
    """Whether there are columns with what stands before the prompt."""

    def in_words_of_the_row(self, sentence: str) -> str:
        """A sentence about columns with the names that the row has for them."""
        for known, name in self.renamed.items():
            sentence = sentence.replace(f"`{known}", f"`{name}")
        return sentence


def _fitting(shapes: Sequence[Shape], there: Collection[str], columns: Collection[str]) -> _Fit | None:
    """The first shape whose needs are there, for a row with these columns."""
    for shape in shapes:
        if (found := shape.found(there)) is not None:
            read = frozenset(found.values())
            unread = tuple(name for name in columns if name not in read and name not in (*shape.also, *CONTEXT, "split"))
            renamed = {known: name for known, name in found.items() if known != name}
            return _Fit(shape, read, renamed, unread, any(name in columns for name in CONTEXT))
    return None


class _File:
    """The rows of one file on their way to records."""

    def __init__(
        self, file: str, shapes: Sequence[Shape], on_bad: OnBad, reading: Reading, tally: Tally, hint: Hint, carries: bool
    ) -> None:  # fmt: skip
        self.carries = carries
        self.file, self.shapes, self.on_bad, self.reading, self.tally, self.hint = file, shapes, on_bad, reading, tally, hint
        self.columns: dict[str, None] = {}  # of rows without a shape; a set that keeps the order of the file
        self.unread: Counter[str] = Counter()
        self.matched = False
        self.gathered: list[Row] = []
        self.gathering: tuple[_Fit, Any] | None = None
        self.known: dict[tuple[tuple[str, ...], tuple[bool, ...]], _Fit | None] = {}

    def take(self, number: int, row: dict[str, Any]) -> Iterator[Record]:
        """The records that are complete with this row."""
        named = prepared(row, self.reading)
        fit = self._fit(named)
        if fit is None:
            if len(self.columns) < MOST_COLUMNS:
                self.columns |= dict.fromkeys(row)
            self.on_bad(BadRow(self.file, number, f"missing_columns: found {', '.join(row) or 'none'}", _json(row)))
            return
        for name in fit.unread:
            if named[name] not in EMPTY and (name in MEDIA or not self.carries):
                self.unread[name] += 1
        self.matched = True
        self.tally.shapes[fit.shape.name] += 1
        if fit.renamed:
            named |= {known: named[name] for known, name in fit.renamed.items()}
        group = (fit, named[fit.shape.gathers]) if fit.shape.gathers else None
        if self.gathered and group != self.gathering:
            yield from self._together()
        if group:
            self.gathering = group
            self.gathered.append((number, named))
        else:
            yield from self._built(fit, [(number, named)])

    def close(self) -> Iterator[Record]:
        """The last records, once the file has ended; refuses what only the whole file shows."""
        if self.gathered:
            yield from self._together()
        self.tally.unread.update(self.unread)
        refuse_unread(self.unread, self.file)
        if self.columns and not self.matched:
            raise self._no_shape()

    def _fit(self, row: dict[str, Any]) -> _Fit | None:
        """The shape of a row, known from its columns and which of them are null."""
        key = tuple(row), tuple(value is not None for value in row.values())
        if key not in self.known:
            if len(self.known) > MOST_COLUMNS:  # rows that each have columns of their own
                self.known.clear()
            there = {name for name, held in zip(*key, strict=True) if held}
            self.known[key] = _fitting(self.shapes, there, row.keys()) or _fitting(self.shapes, row.keys(), row.keys())
        return self.known[key]

    def _together(self) -> Iterator[Record]:
        assert self.gathering
        fit, rows = self.gathering[0], self.gathered
        self.gathered, self.gathering = [], None
        yield from self._built(fit, rows)

    def _built(self, fit: _Fit, rows: list[Row]) -> Iterator[Record]:
        number, first = rows[0]
        try:
            whole = first if fit.shape.gathers is None else first | {"rows": [row for _, row in rows]}
            made = fit.shape.build(whole, self.reading)
            records = made if isinstance(made, list) else [made]
            if fit.context:
                records = [in_context(record, first, fit.read) for record in records]
            seen = records[0].pop("seen", {})
            extra = _unread_columns(first | seen, (*fit.unread, *seen))
        except WrongType as error:
            said = fit.in_words_of_the_row(str(error))
            for at, row in rows:
                self.on_bad(BadRow(self.file, at, f"{error.code}: {said}", _json(row)))
            return
        self.tally.taken += len(rows)
        split = first.get("split")
        if split is not None and not isinstance(split, str):
            split = None
            self.tally.notes["column `split` holds no names of splits in {count} rows: it is not read there"] += len(rows)
        for record in records:
            if note := record.pop("note", None):
                self.tally.notes[note] += 1
            record |= {"source": self.file, "row": number, "split": split, "extra": extra}
            yield record

    def _no_shape(self) -> Refusal:
        present = list(self.columns)
        if hint := self.hint(present):
            remedy = hint
        elif present == ["data"]:
            remedy = "the columns are inside `data`: name them in columns, such as {prompt: data.prompt, chosen: data.chosen}"
        else:
            remedy = wrong_columns(present, [tuple(names[0] for names in shape.names) for shape in self.shapes])
        allowed = "; or ".join(dict.fromkeys(" + ".join(shape.needs) for shape in self.shapes))
        return Refusal(where=self.file, found=f"columns {', '.join(present)}", allowed=allowed, remedy=remedy)


def _unread_columns(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The columns that are no part of the normal form, as JSON, for rewards and judges; None where they hold nothing.

    Values that JSON does not have become text.

    Raises:
        WrongType: when they are nested too deeply to be kept.
    """
    left = {name: row[name] for name in names if row[name] not in EMPTY}
    if not left:
        return None
    try:
        return orjson.dumps(left, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # integers beyond 64 bits, or deep nesting
        try:
            return json.dumps(left, default=str)
        except RecursionError:
            raise WrongType(f"one of {', '.join(left)} is nested too deeply") from None


def _json(row: dict[str, Any]) -> str:
    try:
        return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        return "a value that is nested too deeply to be shown"
