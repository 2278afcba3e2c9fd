"""What a file holds, by its first bytes: its name only helps where the bytes leave it open."""

from __future__ import annotations

import io
import json
import re
from typing import Final, Literal

import orjson

from posttrain.data.bounds import LONGEST_ROW
from posttrain.data.containers.json_text import BOM, unfinished
from posttrain.data.containers.rows import BrokenStream
from posttrain.data.containers.slips import open_brackets
from schemas.errors import Refusal

Form = Literal["lines", "values", "csv", "tsv", "parquet", "arrow", "warc"]
HEAD: Final = 1 << 16  # bytes that are looked at, or as many as the first line has
PARQUET: Final = b"PAR1"
ARROW: Final = (b"ARROW1", b"\xff\xff\xff\xff")  # the file format, and the streaming one
# What people download or name by mistake, and what to do about it.
ELSE: Final[dict[bytes, tuple[str, str]]] = {
    b"version https://git-lfs": ("a Git LFS pointer, not the data itself", "fetch it: git lfs pull"),
    b"PK\x03\x04": ("a ZIP archive (or an Excel file)", "unpack it, or save it as CSV"),
    b"<!DOCTYPE": ("a web page", "download the file itself, not the page about it; a private one needs a login"),
    b"<!doctype": ("a web page", "download the file itself, not the page about it; a private one needs a login"),
    b"<html": ("a web page", "download the file itself, not the page about it; a private one needs a login"),
    b"<?xml": ("XML", "convert it to JSON lines"),
    b"FEA1": ("Feather of version 1", "write it again with a current pyarrow"),
    b"PARE": ("encrypted Parquet", "decrypt it"),
    b"ORC": ("ORC", "convert it to Parquet"),
    b"Obj\x01": ("Avro", "convert it to Parquet"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV or Parquet"),
    b"\x89HDF": ("HDF5", "convert it to Parquet"),
    b"\x93NUMPY": ("a NumPy array", "convert it to Parquet"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"\x04\x22\x4d\x18": ("an LZ4 file", "unpack it, or compress it with gzip or zstd"),
    b"%PDF": ("a PDF", "give the rows as JSON lines"),
    b"\x80\x03": ("a Python pickle, which can run code", "save the rows as JSON lines"),
    b"\x80\x04": ("a Python pickle, which can run code", "save the rows as JSON lines"),
    b"\x80\x05": ("a Python pickle, which can run code", "save the rows as JSON lines"),
}
TAR: Final = 257  # where a tar archive says that it is one
MOST_BINARY: Final = 0.02  # share of control characters above which bytes are no text
CONTROL: Final = bytes(sorted(set(range(32)) - set(b"\t\n\r\f\x1b\b")))
WRONG_LINES: Final = 0.1  # share of lines that are not UTF-8 from which the file is in another encoding
LEADING: Final = re.compile(rb"(?:(?://|#)[^\n]*\n\s*|/\*.*?\*/\s*)+", re.DOTALL)  # comments
HEADER: Final = re.compile(rb"\A[\"']?[\w .-]+[\"']?(?:[,\t;|][\"']?[\w .-]*[\"']?)+\s*\Z")


def first_bytes(stream: io.BufferedReader) -> tuple[bytes, bool]:
    """The head of a stream: `HEAD` bytes or more, so that one sees what follows the first line, unless it is too long for a row.

    Returns:
        The head, and whether it is the whole stream. A stream that breaks in its head is not; it breaks again when it is read on.
    """
    head, wanted = b"", HEAD
    try:
        while len(head) < wanted:
            piece = stream.read1(wanted - len(head))
            if not piece:
                return head, True
            head += piece
            if len(head) == wanted < LONGEST_ROW and not columnar(head) and not _has_second_line(head):
                wanted *= 2
    except BrokenStream:
        pass
    return head, False


def _has_second_line(head: bytes) -> bool:
    end = head.find(b"\n", len(head) - len(head.lstrip()))
    return end >= 0 and not head[end:].isspace()


def columnar(head: bytes) -> Form | None:
    """Whether a head is that of a Parquet or Arrow file."""
    if head.startswith(PARQUET):
        return "parquet"
    return "arrow" if head.startswith(ARROW) else None


def refuse_else(name: str, head: bytes) -> None:
    """Refuse what has no rows in it, by its right name.

    Raises:
        Refusal: for a known kind of file that is not read.
    """
    found = next((what for magic, what in ELSE.items() if head.startswith(magic)), None)
    if head[TAR : TAR + 5] == b"ustar":
        found = "a tar archive", "unpack it"
    if found:
        raise Refusal(where=name, found=found[0], allowed="JSON lines, JSON, CSV, TSV, Parquet or Arrow", remedy=found[1])


def is_binary(head: bytes) -> bool:
    """Whether bytes are no text in any encoding that keeps ASCII."""
    some = head[:HEAD]
    return len(some) - len(some.translate(None, CONTROL)) > MOST_BINARY * len(some)


def looks_like_json(head: bytes) -> bool:
    """Whether text begins as an object or an array does."""
    return head.removeprefix(BOM).lstrip().startswith((b"{", b"["))


def refuse_encoding(name: str, head: bytes) -> None:
    """Refuse text in another encoding than UTF-8, by its probable name; a few bad lines are left to cost themselves.

    Raises:
        Refusal: when a tenth of the lines that were looked at are not UTF-8, two at least.
    """
    lines = head.splitlines(keepends=True)[: -1 if len(head) >= HEAD else None] or [b""]  # the last may be cut
    wrong = [at for at, line in enumerate(lines) if not _is_utf8(line)]
    if len(wrong) < 2 or len(wrong) < WRONG_LINES * len(lines):
        return
    first = lines[wrong[0]]
    at = sum(map(len, lines[: wrong[0]])) + _first_wrong(first)
    encoding = _encoding(b"".join(lines[each] for each in wrong))
    raise Refusal(
        where=f"{name}:{wrong[0] + 1}",
        found=f"text that is not UTF-8 in {len(wrong):,} of the first {len(lines):,} lines, the first at byte {at + 1:,}; "
        f"it is probably {encoding}",
        allowed="UTF-8 (or UTF-16, UTF-32 with a byte order mark)",
        remedy=f"convert it: iconv -f {encoding.split(' ')[0]} -t UTF-8",
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_wrong(line: bytes) -> int:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _encoding(some: bytes) -> str:
    """A guess: Chinese where all of it is Chinese, else what Western programs write."""
    try:
        said = some.decode("gb18030")
        wide = [letter for letter in said if ord(letter) > 127]
        if sum("\u4e00" <= letter <= "\u9fff" for letter in wide) > 0.8 * len(wide) and len(wide) > 20:
            return "GB18030"
    except UnicodeDecodeError:
        pass
    return "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", some) else "ISO-8859-1 (Latin-1)"


def text_form(name: str, head: bytes, whole: bool, suffix: str) -> Form:
    """How the rows of a text stand in it.

    Args:
        name: of the file, for refusals.
        head: its beginning, in UTF-8.
        whole: whether that is all of it.
        suffix: of its name, without that of a codec.

    Raises:
        Refusal: for CSV under another name, since what its first line means would be a guess.
    """
    text = head.replace(BOM, b"").lstrip()
    start = _behind_comments(text)
    if start.startswith(b"["):
        return "lines" if _is_value(start.split(b"\n", 1)[0]) and not _in_one_piece(start, whole) else "values"
    if start.startswith(b"{"):
        if start != text and _is_value(start.split(b"\n", 1)[0]):
            return "lines"
        too_long = len(head) >= LONGEST_ROW and b"\n" not in start
        return "lines" if too_long and suffix in (".jsonl", ".ndjson") else _objects(start, whole)
    if suffix in (".csv", ".tsv"):
        return "tsv" if suffix == ".tsv" else "csv"
    if HEADER.match(start.split(b"\n", 1)[0]) and b"\n" in start and b"{" not in head:
        raise Refusal(
            where=name,
            found="text that is not JSON, but looks like CSV or TSV",
            allowed=f"in a file of the kind {suffix}: JSON",
            remedy="name it .csv or .tsv if its first line holds the names of the columns",
        )
    return "lines"


def _behind_comments(text: bytes) -> bytes:
    """The text behind the comments with which it begins, where JSON follows: they are told when it is read."""
    found = LEADING.match(text)
    rest = text[found.end() :] if found else text
    return rest if looks_like_json(rest) else text


def _is_value(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _in_one_piece(start: bytes, whole: bool) -> bool:
    """Whether an array in the first line is all there is."""
    return whole and not start.partition(b"\n")[2].strip()


def _objects(start: bytes, whole: bool) -> Form:
    """JSON lines, or objects that are spread over lines, joined without a newline, or hold all rows inside one."""
    line, _, rest = start.partition(b"\n")
    if _is_value(line):
        return "lines" if (rest.strip() and not _goes_on(rest)) or not whole else "values"
    text, said = start.decode(errors="replace"), line.decode(errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        # A fault in the first line is a bad row among JSON lines; text that goes on is an object of several lines.
        goes_on = error.pos > len(said) or (rest.strip() and open_brackets(said))
        return "values" if (not whole and unfinished(text, error)) or (goes_on and not _has_row(rest)) else "lines"
    except (RecursionError, ValueError):  # nested too deeply, or a number of over 4,300 digits
        return "lines"
    behind = said[end:].strip()  # nothing behind an object alone that only another parser refuses
    return "values" if end > len(said) or behind.startswith(("{", "[", ",")) or (behind and not _has_row(rest)) else "lines"


def _goes_on(rest: bytes) -> bool:
    """Whether objects follow that are spread over lines."""
    text = rest.decode(errors="replace").lstrip()
    if not text.startswith("{") or _has_row(rest):
        return False
    try:
        return json.JSONDecoder().raw_decode(text)[1] > len(text.partition("\n")[0])
    except (RecursionError, ValueError):
        return False


def _has_row(rest: bytes) -> bool:
    """Whether one of the next lines begins at its margin and is a whole object."""
    return any(line.startswith(b"{") and _is_value(line) for line in io.BytesIO(rest).readlines(HEAD))
