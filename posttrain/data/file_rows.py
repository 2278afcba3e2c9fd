"""The rows of one file on their way to records in normal form, each by the shape that its columns make."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from posttrain.data.columns import CONTEXT, EMPTY, MEDIA, check_columns, prepared, refuse_unread
from posttrain.data.containers.rows import shown
from posttrain.data.context import in_context
from posttrain.data.messages import WrongType
from posttrain.data.readers import UNREAD, BadRow, OnBad, Row
from posttrain.data.remedies import Hint, Shapeless, fitting
from posttrain.data.shapes import Elsewhere, Record, Shape, Tally
from schemas.reading import Reading

MOST_LAYOUTS: Final = 200  # columns of rows whose shape is remembered


@dataclass(frozen=True)
class Fit:
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


def _fitting(shapes: Sequence[Shape], there: Collection[str], columns: Collection[str]) -> Fit | None:
    """The first shape whose needs are there, for a row with these columns."""
    if not (first := fitting(shapes, there)):
        return None
    shape, found = first
    read = frozenset(found.values())
    unread = tuple(name for name in columns if name not in read and name not in (*shape.also, *CONTEXT, "split"))
    renamed = {known: name for known, name in found.items() if known != name}
    return Fit(shape, read, renamed, unread, any(name in columns for name in CONTEXT))


class FileRows:
    """Builds each row of a file by the first shape whose columns it has; the others, and wrong types, go to `on_bad`.

    A shape whose columns hold something is preferred to one whose columns are null. Records have `source`, `row` (that of the
    first row, where several make a record) and `split` as declared or None, `extra` (the columns that the shape does not read).

    Args:
        file: its name.
        shapes: those that the data set takes, the first that fits first.
        on_bad: takes the rows that cannot be used.
        reading: what the recipe says about the columns.
        tally: takes what is to be said beside the records.
        hint: from the columns of a row that fit no shape to where such rows belong, or None.
        carries: whether columns that no shape reads are what rewards go by, under any name, so that only media are refused.

    Raises:
        Refusal: when `reading` maps to a column that no shape reads. `close` raises it when there were rows and none had the
            columns of a shape, and when columns that nothing reads would change what the rows mean.
    """

    def __init__(
        self, file: str, shapes: Sequence[Shape], on_bad: OnBad, reading: Reading, tally: Tally, hint: Hint,
        carries: bool = False,
    ) -> None:  # fmt: skip
        if not carries:
            check_columns(reading, (name for shape in shapes for name in shape.claims), file)
        self.carries = carries
        self.file, self.shapes, self.on_bad, self.reading, self.tally, self.hint = file, shapes, on_bad, reading, tally, hint
        self.shapeless = Shapeless(shapes, hint, reading)
        self.unread: Counter[str] = Counter()
        self.matched = False
        self.gathered: list[Row] = []
        self.gathering: tuple[Fit, Any] | None = None
        self.renames = bool(reading.columns or reading.ignore)
        self.last: tuple[tuple[str, ...] | None, Fit | None] = None, None
        self.known: dict[tuple[tuple[str, ...], tuple[bool, ...]], Fit | None] = {}
        # By the columns that are read and those that are not: where rows say more.
        self.elsewhere: dict[tuple[frozenset[str], tuple[str, ...]], Elsewhere] = {}

    def take(self, number: int, row: dict[str, Any]) -> Iterator[Record]:
        """The records that are complete with this row."""
        named = prepared(row, self.reading)
        yield from self.take_prepared(number, named, row)

    def take_prepared(self, number: int, named: dict[str, Any], row: dict[str, Any]) -> Iterator[Record]:
        """As `take`, for a row under the names that shapes know."""
        fit = self.fit(named)
        if fit is None:
            self.shapeless.take(row)
            self.on_bad(BadRow(self.file, number, f"missing_columns: found {shown(row) or 'none'}", _json(row)))
            return
        for name in fit.unread:
            if named[name] not in EMPTY and self.counts(name):
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

    def counts(self, name: str) -> bool:
        """Whether a person should know of a column that no shape reads."""
        return name in MEDIA or not self.carries

    def counted(self, fit: Fit, rows: int, holding: dict[str, int]) -> None:
        """Rows of one shape became records without `take`; `holding` says in how many an unread column holds something."""
        if rows:
            self.matched = True
            self.tally.shapes[fit.shape.name] += rows
            self.tally.taken += rows
            self.unread.update({name: count for name, count in holding.items() if count})

    def close(self) -> Iterator[Record]:
        """The last records, once the file has ended; refuses what only the whole file shows."""
        if self.gathered:
            yield from self._together()
        self.tally.unread.update(self.unread)
        refuse_unread(self.unread, self.file)
        if self.shapeless.names and not self.matched:
            raise self.shapeless.refusal(self.file)
        for said, count in self._overlooked().items():
            self.tally.notes[f"{said}, to train on these; here they are not read ({{count}} rows)"] += count

    def _overlooked(self) -> dict[str, int]:
        """Where rows belong that say more in another data set, by columns that are not read; and how many they are."""
        found: dict[tuple[str, frozenset[str]], int] = {}
        for (read, unread), hint in self.elsewhere.items():
            shape = max(hint.shapes, key=lambda each: len(each.needs))
            columns = shape.found((*read, *unread)) or {}
            asked = frozenset(columns.values()).intersection(unread)
            if rows := min((self.unread[name] for name in asked), default=0):
                found[hint.said, asked] = rows
        counts: Counter[str] = Counter()
        for (said, _), rows in found.items():
            counts[said] += rows
        return counts

    def fit(self, row: dict[str, Any]) -> Fit | None:
        """The shape of a row, known from its columns and which of them are null."""
        names = tuple(row)
        if names == self.last[0] and None not in row.values():
            return self.last[1]
        key = names, tuple(value is not None for value in row.values())
        if key not in self.known:
            if len(self.known) > MOST_LAYOUTS:  # rows that each have columns of their own
                self.known.clear()
                self.elsewhere.clear()
            there = {name for name, held in zip(*key, strict=True) if held}
            self.known[key] = _fitting(self.shapes, there, row.keys()) or _fitting(self.shapes, row.keys(), row.keys())
            self._look_elsewhere(self.known[key], row)
        if all(key[1]):
            self.last = names, self.known[key]
        return self.known[key]

    def _look_elsewhere(self, fit: Fit | None, row: dict[str, Any]) -> None:
        """Remember where rows with these columns say more, by the first of them."""
        if fit and fit.unread and not self.carries:
            hint = self.hint({name: value for name, value in row.items() if name in fit.read or name in fit.unread})
            if hint and hint.richer:
                self.elsewhere[fit.read, fit.unread] = hint

    def _together(self) -> Iterator[Record]:
        assert self.gathering
        fit, rows = self.gathering[0], self.gathered
        self.gathered, self.gathering = [], None
        yield from self._built(fit, rows)

    def _built(self, fit: Fit, rows: list[Row]) -> Iterator[Record]:
        number, first = rows[0]
        try:
            whole = first if fit.shape.gathers is None else first | {"rows": [row for _, row in rows]}
            made = fit.shape.build(whole, self.reading)
            records = made if isinstance(made, list) else [made]
            if fit.context:
                records = [in_context(record, first, fit.read) for record in records]
            seen = records[0].pop("seen", {})
            extra = unread_columns(first | seen, (*fit.unread, *seen))
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


def unread_columns(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The columns that are no part of the normal form, as JSON, for rewards and judges; None where they hold nothing.

    Values that JSON does not have become text.

    Raises:
        WrongType: when they are nested too deeply to be kept.
    """
    left = {name: row[name] for name in names if row[name] is not UNREAD and row[name] not in EMPTY}
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
