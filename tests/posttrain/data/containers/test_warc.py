"""WARC and WET files: pages become rows; what is cut or damaged is named by record and byte; a page that hangs is ended."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.containers import pages
from posttrain.data.containers.pages import Extractor, PageLost
from posttrain.data.readers import BadRow, read_rows
from posttrain.data.sources import SourceFile, resolve
from schemas.errors import Refusal
from schemas.reading import Reading

pytest.importorskip("fastwarc", reason="the extra warc is not installed")
SENTENCES = "The river was high that week. The ferry did not run. We waited on the bank until the evening came.\n"
CRAWL = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "sample-0000.warc.gz"


def page(words: str = SENTENCES) -> bytes:
    return f"<html><body><nav>Home</nav><article><p>{words * 5}</p></article></body></html>".encode()


def record(kind: str, body: bytes, content: str, number: int = 0, **more: str) -> bytes:
    digest = base64.b32encode(hashlib.sha1(body).digest()).decode()
    head = {
        "WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:{number:036d}>", "WARC-Date": "2024-04-25T16:24:44Z",
        "WARC-Target-URI": f"http://example.org/{number}", "WARC-Block-Digest": f"sha1:{digest}", "Content-Type": content,
        "Content-Length": str(len(body)),
    } | more  # fmt: skip
    return (
        ("WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in head.items()) + "\r\n").encode() + body + b"\r\n\r\n"
    )


def response(body: bytes, number: int = 0, status: str = "200 OK", content: str = "text/html; charset=utf-8") -> bytes:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return record("response", http + body, "application/http; msgtype=response", number)


def read(path: Path, reading: Reading = Reading()) -> tuple[list[tuple[int, dict[str, Any]]], list[BadRow], list[str]]:  # noqa: B008
    bad: list[BadRow] = []
    notes: list[str] = []
    return list(read_rows(SourceFile(path.name, str(path), reading=reading), bad.append, note=notes.append)), bad, notes


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_pages_that_were_found_are_rows_and_the_others_are_told(tmp_path: Path, extractor: Any) -> None:
    path = tmp_path / "crawl.warc.gz"
    records = [
        record("warcinfo", b"software: a crawler\r\n", "application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "application/http; msgtype=request", 1),
        response(page(), 2),
        response(b"not here", 3, status="404 Not Found"),
        response(b"\x89PNG", 4, content="image/png"),
        response(SENTENCES.encode(), 5, content="text/plain"),
    ]
    path.write_bytes(b"".join(map(gzip.compress, records)))
    rows, bad, notes = read(path, Reading(extractor=extractor))
    assert [(number, row["url"]) for number, row in rows] == [(3, "http://example.org/2"), (6, "http://example.org/5")]
    assert rows[0][1]["id"] == f"urn:uuid:{2:036d}"
    assert rows[0][1]["date"] == "2024-04-25T16:24:44Z"
    assert "The ferry did not run." in rows[0][1]["text"]
    assert "<p>" not in rows[0][1]["text"]
    assert rows[1][1]["text"] == SENTENCES
    assert not bad
    assert notes == ["crawl.warc.gz: 4 records are left out: no pages, not found, or of another type than text"]


def test_the_texts_of_a_wet_file_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.wet.gz"
    path.write_bytes(gzip.compress(record("conversion", "Über den Fluss.".encode(), "text/plain", 7)))
    assert [row["text"] for _, row in read(path)[0]] == ["Über den Fluss."]


def test_pages_are_decoded_as_they_declare_or_as_they_look(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc"
    words = "Der Fährmann wartete am Ufer. Die Brücke war längst gesperrt, und niemand wußte, warum.\n"
    latin = page(words).decode().encode("latin-1")
    path.write_bytes(response(latin, 1, content="text/html; charset=iso-8859-1") + response(latin, 2, content="text/html"))
    assert ["Fährmann" in row["text"] for _, row in read(path)[0]] == [True, True]


def test_every_cut_is_refused_with_record_and_byte_but_the_ones_between_records(tmp_path: Path) -> None:
    parts = [record("conversion", b"One text.", "text/plain", 1), record("conversion", b"Another text.", "text/plain", 2)]
    whole, path = b"".join(parts), tmp_path / "crawl.wet"
    for cut in range(len(parts[0]) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(Refusal) as caught:
            read(path)
        assert caught.value.where == "crawl.wet:2"
        assert f"byte {len(parts[0]) + 1:,}" in caught.value.found
    path.write_bytes(whole)
    assert len(read(path)[0]) == 2


def test_a_cut_gzip_is_refused_with_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.gz"
    first, second = gzip.compress(response(page(), 1)), gzip.compress(response(page(), 2))
    path.write_bytes(first + second[:-30])
    with pytest.raises(Refusal, match=f"byte {len(first + second[:-30]) + 1:,}"):
        read(path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"Content-Length: 9", b"Content-Length: 8", "longer than it says"),
        (b"Content-Length: 9", b"Content-Length: x", "Content-Length is b'x'"),
        (b"Content-Length", b"Content-Lengte", "no Content-Length"),
        (b"WARC/1.0\r\nWARC-Type", b"\r\nWARC/1.0\r\nWARC-Type", "no record begins here"),
    ],
)
def test_damage_is_refused_where_it_is(tmp_path: Path, before: bytes, after: bytes, said: str) -> None:
    good, bad = (record("conversion", b"One text.", "text/plain", number) for number in (1, 2))
    path = tmp_path / "crawl.warc"
    path.write_bytes(good + bad.replace(before, after) + good)
    with pytest.raises(Refusal) as caught:
        read(path)
    assert caught.value.where == "crawl.warc:2"
    assert said in caught.value.found


def test_changed_content_costs_its_record(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc"
    path.write_bytes(record("conversion", b"One text.", "text/plain", 1).replace(b"One", b"Two") + response(page(), 2))
    rows, bad, _ = read(path)
    assert [number for number, _ in rows] == [2]
    assert [(each.row, each.code) for each in bad] == [(1, "damaged")]


def test_what_is_no_warc_is_not_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc"
    path.write_bytes(b'{"text": "A row."}\n')
    with pytest.raises(Refusal, match="not WARC"):
        read(path)


SLOW = """
import os, sys, time
import posttrain.data.containers.extraction as extraction
def slow():
    def extract(page):
        if "hang" in page:
            time.sleep(600)
        if "crash" in page:
            os._exit(1)
        if "raise" in page:
            raise RecursionError("too deep")
        return page
    return extract
extraction.EXTRACTORS["trafilatura"] = slow
extraction.serve(sys.argv[1], sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extractor that hangs, crashes or raises where a page says so, in the real process."""
    (tmp_path / "fragile_extraction.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pages, "CHILD", "fragile_extraction")


@pytest.mark.usefixtures("fragile")
def test_a_page_that_hangs_crashes_or_raises_costs_itself() -> None:
    with Extractor("trafilatura", 0.5) as extractor:
        for word, reason in (("hang", "page_timeout"), ("crash", "page_crashed"), ("raise", "page_unreadable: RecursionError")):
            with pytest.raises(PageLost, match=reason):
                extractor.text(word.encode(), None)
            assert extractor.text(b"good", "utf-8") == "good"


@pytest.mark.usefixtures("fragile")
def test_the_process_of_a_page_that_hung_is_gone() -> None:
    with Extractor("trafilatura", 0.5) as extractor:
        assert extractor.text(b"good", None) == "good"
        child = extractor._child
        assert child
        with pytest.raises(PageLost):
            extractor.text(b"hang", None)
        assert child.returncode == -9
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def test_folders_and_names_find_crawls(tmp_path: Path) -> None:
    for name in ("a.warc.gz", "b.warc", "c.warc.wet.gz"):
        (tmp_path / name).write_bytes(b"WARC/1.0")
    assert [file.name for file in resolve(str(tmp_path), "data.corpus", tmp_path)] == ["a.warc.gz", "b.warc", "c.warc.wet.gz"]


@pytest.mark.skipif(not CRAWL.exists(), reason="shared/data is not here")
def test_a_real_crawl(tmp_path: Path) -> None:
    rows, bad, _ = read(CRAWL)
    assert len(rows) + len(bad) == 22
    assert sum("University of Washington" in row["text"] for _, row in rows) >= 1
    cut = tmp_path / "cut.warc.gz"
    cut.write_bytes(CRAWL.read_bytes()[:100_000])
    with pytest.raises(Refusal, match="breaks off"):
        read(cut)
