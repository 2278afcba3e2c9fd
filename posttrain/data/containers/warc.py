"""WARC and WET: the records of a crawl (ISO 28500), of which each web page or extracted text is a row.

`fastwarc` reads a record, but like all public readers it takes a file that is cut for one that ends. So the records are told
apart here, by the lengths that they declare, and each has to end as the standard says.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from typing import Any, Final

from posttrain.data.bounds import LONGEST_ROW, MIB
from posttrain.data.containers.pages import Extractor, PageLost
from posttrain.data.containers.rows import BrokenStream, Reading, Row
from schemas.errors import Refusal

MAGIC: Final = b"WARC/"
LONGEST_HEAD: Final = MIB
END: Final = b"\r\n\r\n"  # of each record
PAGES: Final = ("text/html", "application/xhtml+xml")
PLAIN: Final = "text/plain"
FOUND: Final = 200  # HTTP status of a page that was there

_Record = tuple[int, int, bytes]
"""Number of a record, from 1; the byte where it starts, from 1; and all its bytes, none where it is too long."""


def read_warc(reading: Reading, stream: io.BufferedReader) -> Iterator[Row]:
    """Record number and `id`, `url`, `date`, `text` of each page that was found, and of each text of a WET file.

    Raises:
        Refusal: when the extra is not installed, or the file breaks off or is damaged, with record and byte.
    """
    if missing := [name for name in ("fastwarc", "resiliparse", "trafilatura") if importlib.util.find_spec(name) is None]:
        raise Refusal(
            where=reading.name, found=f"WARC, and no package {missing[0]}", allowed="WARC with the extra `warc`",
            remedy='pip install "posttrain[warc]", or give the texts as JSON lines',
        )  # fmt: skip
    others = 0
    with Extractor(reading.extractor, reading.page_seconds) as extractor:
        for number, start, whole in _records(reading, stream):
            reading.meter.count += len(whole)
            if not whole:
                reading.bad(number, f"page_too_long: over {LONGEST_ROW} bytes")
                continue
            try:
                row = _row(whole, extractor)
            except (OSError, ValueError) as error:  # of fastwarc, about the record; of a page `PageLost`
                reading.bad(number, str(error) if isinstance(error, PageLost) else f"not_warc: {error} at byte {start:,}")
                continue
            if row is None:
                others += 1
            else:
                yield number, row
    if others:
        reading.note(f"{reading.name}: {others:,} records are left out: no pages, not found, or of another type than text")


def _row(whole: bytes, extractor: Extractor) -> dict[str, Any] | None:
    from fastwarc.warc import WarcRecord, WarcRecordType

    record = WarcRecord.from_bytes(whole)
    if record.record_type not in (WarcRecordType.response, WarcRecordType.conversion):
        return None
    if "WARC-Block-Digest" in record.headers and not record.verify_block_digest():
        raise PageLost("damaged: the content does not have the digest that the record says")
    kind, charset = str(record.headers.get("Content-Type", "")).split(";")[0].strip().lower(), None
    if record.record_type == WarcRecordType.response:
        record.parse_http(auto_decode="all")
        if record.http_headers is None or record.http_headers.status_code != FOUND:
            return None
        kind, charset = str(record.http_content_type or "").lower(), record.http_charset
    if kind not in (*PAGES, PLAIN):
        return None
    content = record.reader.read()
    text = extractor.text(content, charset) if kind in PAGES else content.decode(charset or "utf-8", "replace")
    url = str(record.headers.get("WARC-Target-URI", "")).strip("<>")
    return {"id": str(record.record_id).strip("<>"), "url": url, "date": str(record.headers.get("WARC-Date", "")), "text": text}


def _records(reading: Reading, stream: io.BufferedReader) -> Iterator[_Record]:
    """The records one after the other; what stands between them makes the file a damaged one."""
    number, at = 0, 1
    while True:
        number += 1
        try:
            head = _head(stream)
            if not head:
                return
            length = _length(head)
            body = stream.read(length) if length <= LONGEST_ROW else _skipped(stream, length)
            end = stream.read(len(END))
        except BrokenStream as error:
            reading.snapped(number, error)
            return
        except _Damaged as error:
            reading.broken(number, at, str(error))
            return
        if (body is not None and len(body) < length) or end != END:
            cut = body is None or len(body) < length or len(end) < len(END)
            why = "the file ends in the middle of a record" if cut and not stream.read(1) else "a record is longer than it says"
            reading.broken(number, at, why)
            return
        yield number, at, b"" if body is None else head + body + end
        at += len(head) + length + len(END)


class _Damaged(Exception):
    """Bytes that are no head of a record."""


def _head(stream: io.BufferedReader) -> bytes:
    """The lines of a head with the empty one behind them; nothing at the end of the file."""
    lines = [stream.readline(LONGEST_HEAD)]
    if not lines[0]:
        return b""
    if not lines[0].startswith(MAGIC):
        raise _Damaged(f"no record begins here, but {lines[0][:20]!r}")
    size = len(lines[0])
    while lines[-1] not in (b"\r\n", b"\n"):
        lines.append(stream.readline(LONGEST_HEAD))
        size += len(lines[-1])
        if not lines[-1]:
            raise _Damaged("the file ends in the head of a record")
        if size > LONGEST_HEAD:
            raise _Damaged(f"the head of a record is over {LONGEST_HEAD:,} bytes long")
    return b"".join(lines)


def _length(head: bytes) -> int:
    for line in head.splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            if value.strip().isdigit():
                return int(value)
            raise _Damaged(f"Content-Length is {value.strip()[:20]!r}")
    raise _Damaged("a record has no Content-Length")


def _skipped(stream: io.BufferedReader, length: int) -> bytes | None:
    """Read over a body; None, or fewer bytes than it should have where the file ends before it does."""
    while length:
        piece = stream.read(min(length, MIB))
        if not piece:
            return b""
        length -= len(piece)
    return None
