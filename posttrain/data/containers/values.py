"""JSON that is not one object a line: an array, objects spread over lines or joined, one object that holds all rows.

What is read at a time is one element, however large the file. Elements are found by Python's scanner, which says where a value
ends, and parsed as a line of JSON lines is.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from posttrain.data import bounds
from posttrain.data.containers.json_tables import WRAPPERS, Look, Uneven, rows_beside, table_of
from posttrain.data.containers.json_text import Fault, excerpt, parse, unfinished
from posttrain.data.containers.lines import DoubledKeys
from posttrain.data.containers.rows import BrokenStream, Reading, Row, shown
from posttrain.data.containers.slips import LONGEST, slip, trailing
from posttrain.data.split import DECLARED, in_part

CHUNK: Final = 1 << 16  # bytes
LONGEST_FIELD: Final = bounds.LONGEST_ARRAY // 4  # bytes of one column of a file that is laid out by columns
AHEAD: Final = 2 * LONGEST  # characters that tell what is wrong
SPACE: Final = re.compile(r"[ \t\r\n\ufeff]*")
DECODER: Final = json.JSONDecoder(parse_constant=lambda name: None)
REWRITE: Final = "correct it there, or write JSON lines, one object a line, of which a bad one costs only itself"
JOINED: Final = "remove the commas at the ends of lines, or put [ ] around all"


class Stop(Exception):
    """The text cannot be read on from here: what is wrong, whether more of it would help, and what to do."""

    def __init__(self, why: str, cut: bool = False, remedy: str | None = None) -> None:
        super().__init__(why)
        self.cut, self.remedy = cut, remedy


class Text:
    """The text of a stream from where one is in it; bytes that are not UTF-8 are kept as they are, to be named by their row."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._dropped, self._ended = "", 0, 0, False
        self._last = ""  # character that was taken

    @property
    def byte(self) -> int:
        """Where the stream is read next, from 1."""
        return self._dropped + len(_raw(self._text[: self._at])) + 1

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            match = SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more(CHUNK):
                return self._text[self._at : self._at + 1]

    def peek_inside(self) -> str:
        """The first character in the bracket that comes next, white space aside, or nothing at the end."""
        while True:
            match = SPACE.match(self._text, self._at + 1)
            at = match.end() if match else self._at + 1
            if at < len(self._text) or not self._more(CHUNK):
                return self._text[at : at + 1]

    def take(self, expected: str) -> str:
        """The next character that is no white space, which must be one of these.

        Raises:
            Stop: when it is another.
        """
        found = self.peek()
        if not found:
            raise Stop(f"the end where {' or '.join(expected)} belongs", cut=True)
        if found not in expected:
            raise self._misplaced(found, expected)
        self._at, self._last = self._at + 1, found
        return found

    def name(self) -> bytes:
        """The bytes of the next value, which is the name of a field.

        Raises:
            Stop: when it is no text; as `value` does.
        """
        if (found := self.peek()) and found != '"':
            raise self._stop(json.JSONDecodeError("Expecting property name", self._text, self._at))
        return self.value(LONGEST_FIELD)

    def _misplaced(self, found: str, expected: str) -> Stop:
        """What stands where only one of some characters may."""
        stop = self._stop(json.JSONDecodeError("Expecting ',' delimiter", self._text, self._at))
        plain = f"{found!r} where {' or '.join(expected)} belongs"
        if found in '"{[]},':
            return Stop(plain, remedy=stop.remedy if "," in expected else None)
        return Stop(plain) if stop.remedy is None else stop

    def _stop(self, error: json.JSONDecodeError) -> Stop:
        """What is wrong where a parser stumbles, told by what follows there."""
        at = error.pos - self._at
        while len(self._text) - self._at - at < AHEAD and self._more(CHUNK):
            pass
        why, remedy = slip(self._text, json.JSONDecodeError(error.msg, self._text, self._at + at), self._at, self._last)
        self._at += at
        return Stop(why, remedy=remedy)

    def value(self, longest: int) -> bytes:
        """The bytes of the next value.

        Raises:
            Stop: when it is not JSON, longer than allowed, or cut.
        """
        self.peek()
        while True:
            try:
                _, end = DECODER.raw_decode(self._text, self._at)
                if end == len(self._text) and self._more(CHUNK):  # a number may go on
                    continue
                found, self._at, self._last = _raw(self._text[self._at : end]), end, self._text[end - 1]
                return found
            except json.JSONDecodeError as error:
                if not unfinished(self._text, error):
                    raise self._stop(error) from error
                if len(self._text) - self._at > longest:
                    raise Stop(f"a value of over {longest} bytes") from error
                if not self._more(max(CHUNK, len(self._text) - self._at)):
                    self._at = len(self._text)
                    raise Stop("the file ends in the middle of a value", cut=True) from error
            except RecursionError:
                raise Stop("a value that is nested too deeply") from None
            except ValueError:  # Python's own limit
                raise Stop("a number of over 4,300 digits") from None

    def _more(self, count: int) -> bool:
        """Read on, and forget what lies behind; False at the end."""
        if self._ended:
            return False
        piece = self._next(count)
        self._ended = not piece
        self._dropped += len(_raw(self._text[: self._at]))
        self._text, self._at = self._text[self._at :] + self._decoder.decode(piece, final=self._ended), 0
        return True

    def _next(self, count: int) -> bytes:
        """So many bytes, or those that are left: what stands before a break comes before the break is told."""
        piece = b""
        try:
            while len(piece) < count and (more := self._stream.read1(count - len(piece))):
                piece += more
        except BrokenStream:
            if not piece:
                raise
        return piece


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _parsed(raw: bytes) -> Any:
    """The value of a part of an object, of which no row is left where it is none."""
    try:
        return parse(raw)
    except Fault as fault:
        raise Stop(fault.why, remedy=fault.remedy) from None


class _Values:
    """The rows of one such file."""

    def __init__(self, reading: Reading, stream: io.BufferedReader) -> None:
        self.reading, self.text = reading, Text(stream)
        self.count, self.doubled = 0, DoubledKeys(reading)

    def rows(self) -> Iterator[Row]:
        """All rows.

        Raises:
            Stop: where the text cannot be read on.
        """
        if self.text.peek() == "[":
            yield from self._elements()
        elif self.text.peek() == "{":
            yield from self._document()
        while found := self.text.peek():
            if found == ",":
                raise Stop("a comma between objects that are in no array", remedy=JOINED)
            yield from self._element()

    def _elements(self, part: str | None = None) -> Iterator[Row]:
        """The elements of an array, which may be the part of that name."""
        self.text.take("[")
        if self.text.peek() == "]" and self.text.take("]"):
            return
        while True:
            yield from self._element(part)
            if self._ends("]"):
                return

    def _ends(self, bracket: str) -> bool:
        """Whether the bracket comes next, not a comma and something else.

        Raises:
            Stop: when a comma comes before the bracket, or neither comes.
        """
        if self.text.take(f",{bracket}") == bracket:
            return True
        if self.text.peek() == bracket:
            why, remedy = trailing(bracket)
            raise Stop(why, remedy=remedy)
        return False

    def _element(self, part: str | None = None) -> Iterator[Row]:
        """The next value as a row."""
        raw = self.text.value(bounds.LONGEST_ROW)
        self.count += 1
        self.reading.meter.count += len(raw)
        try:
            value = parse(raw)
        except Fault as fault:
            self.reading.bad(self.count, str(fault), excerpt(raw))
            return
        if isinstance(value, dict):
            self.doubled.look(self.count, raw, value)
            yield self.count, value if part is None else in_part(value, part)
        else:
            self.reading.bad(self.count, "not_an_object", excerpt(raw))

    def _document(self) -> Iterator[Row]:
        """The first object: a row, or one that holds rows: in `data`, under the name of a split, or column by column."""
        fields, streamed = dict[str, Any](), False
        self.text.take("{")
        closed = self.text.peek() == "}" and bool(self.text.take("}"))
        while not closed:
            name = _parsed(self.text.name())
            self.text.take(":")
            if self._holds_rows(name, fields):
                streamed = True
                yield from self._elements(name if name in DECLARED else None)
            else:
                found = _parsed(self.text.value(LONGEST_FIELD))
                if name in fields and isinstance(found, (dict, list)):  # of a table or a split all rows would be lost
                    raise Stop(f"`{name}` twice in one object", remedy="give all of its rows under one name")
                fields[name] = found
            closed = self._ends("}")
        yield from self._of_fields(fields, streamed)

    def _holds_rows(self, name: Any, before: dict[str, Any]) -> bool:
        """Whether the value that comes next is an array of rows, and what comes before it is not a row already."""
        if not (name in WRAPPERS or name in DECLARED) or self.text.peek() != "[" or self.text.peek_inside() != "{":
            return False
        return self.reading.fits is None or not before or not self.reading.fits(before)

    def _of_fields(self, fields: dict[str, Any], streamed: bool) -> Iterator[Row]:
        """The rows of an object, but for those that were given while it was read."""
        look = Look(self.reading.known, self.reading.fits, self._at_the_end())
        try:
            table = rows_beside(fields, look) if streamed else table_of(fields, look)
        except Uneven as uneven:
            raise self.reading.uneven(str(uneven), uneven.remedy) from None
        for row in [fields] if table is None else table.rows:
            self.count += 1
            if isinstance(row, dict):
                yield self.count, row
            else:
                self.reading.bad(self.count, "not_an_object", excerpt(json.dumps(row).encode()))
        if table and table.beside:
            self.reading.note(f"{self.reading.name}: {shown(table.beside)} beside the rows is not read")

    def _at_the_end(self) -> bool:
        """Whether nothing follows; what breaks there is told once what came before has been given."""
        try:
            return not self.text.peek()
        except BrokenStream:
            return False


def read_values(reading: Reading, stream: io.BufferedReader) -> Iterator[Row]:
    """Ordinal and columns of each element that is an object.

    Raises:
        Refusal: when the text is not JSON: where one element ends and the next begins cannot be told then.
    """
    values = _Values(reading, stream)
    try:
        yield from values.rows()
    except BrokenStream as error:
        reading.snapped(values.count + 1, error)
    except Stop as stop:
        if stop.cut:
            reading.broken(values.count + 1, values.text.byte, str(stop))
        else:
            place = f"{stop} at byte {values.text.byte:,}, in row {values.count + 1:,}"
            raise reading.unreadable("JSON", place, stop.remedy or REWRITE) from None
    values.doubled.tell()
