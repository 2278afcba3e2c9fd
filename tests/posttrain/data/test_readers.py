"""Every format gives the same rows, and a bad row costs itself alone."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from posttrain.data.containers import lines
from posttrain.data.readers import BadRow, read_rows
from posttrain.data.sources import SourceFile, resolve
from schemas.errors import Refusal

ROWS = [{"a": "x", "n": 1}, {"a": "ü\u2028", "n": 2}, {"a": None, "n": 3}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def arrow(path: Path, new: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(ROWS)
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "bom.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES)),
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "file.arrow": lambda path: arrow(path, pa.ipc.new_file),
    "stream.arrow": lambda path: arrow(path, pa.ipc.new_stream),
}


def read(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[BadRow]]:
    bad: list[BadRow] = []
    return list(read_rows(SourceFile(path.name, str(path)), bad.append)), bad


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert read(tmp_path / name) == (list(enumerate(ROWS, 1)), [])


def test_two_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n') + gzip.compress(b'{"a":2}\n'))
    assert read(path) == ([(1, {"a": 1}), (2, {"a": 2})], [])


def test_bad_lines_are_named_by_line_and_reading_goes_on(tmp_path: Path) -> None:
    """Lines: 1 good, 2 blank, 3 not UTF-8 (0xff is byte 7), 4 cut, 5 a list, 6 null, 7 half a surrogate pair, 8 good, no end."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n \n{"a":"\xff"}\n{"a":\n[1]\n{"a":NaN}\n{"a":"\\ud800"}\n{"a":8}')
    rows, bad = read(path)
    assert rows == [(1, {"a": 1}), (6, {"a": None}), (8, {"a": 8})]
    assert [(b.file, b.row, b.code) for b in bad] == [
        ("x.jsonl", 3, "not_utf8"),
        ("x.jsonl", 4, "not_json"),
        ("x.jsonl", 5, "not_an_object"),
        ("x.jsonl", 7, "not_json"),
    ]
    assert bad[0].reason == "not_utf8: byte 7 of the line"
    assert bad[2].value == "[1]"


def test_a_line_over_the_limit_is_skipped_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit 300 bytes: a line of 300 and its newline passes, one of 301 does not, nor does one that spans many pieces."""
    monkeypatch.setattr(lines, "LONGEST_LINE", 300)
    fits = b'{"a":"' + b"x" * 292 + b'"}\n'
    over = b'{"a":"' + b"x" * 293 + b'"}\n'
    huge = b'{"a":"' + b"x" * 3_000_000 + b'"}\n'
    path = tmp_path / "x.jsonl"
    path.write_bytes(fits + over + huge + b'{"a":4}\n')
    rows, bad = read(path)
    assert [row for row, _ in rows] == [1, 4]
    assert [(b.row, b.code, len(b.value)) for b in bad] == [(2, "line_too_long", 200), (3, "line_too_long", 200)]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.jsonl.gz", "x.jsonl.zst", "x.json", "x.csv.xz"])
@pytest.mark.parametrize("content", [b"[not any of these", bytes(range(256)) * 9], ids=["text", "binary"])
def test_a_file_that_is_nothing_that_is_read_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match="content that is not") as refusal:
        read(tmp_path / name)
    assert refusal.value.where == name


def test_a_string_that_is_not_utf8_in_parquet_costs_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"a": text}), tmp_path / "x.parquet")
    rows, bad = read(tmp_path / "x.parquet")
    assert rows == [(1, {"a": "good"}), (3, {"a": "fine"})]
    assert [(b.row, b.code) for b in bad] == [(2, "not_utf8")]


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_a_web_server_without_ranges_are_read(tmp_path: Path, name: str) -> None:
    """fsspec's files of web servers and buckets have no `readline` with a limit, and here one cannot even move in them."""
    WRITERS[name](tmp_path / name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        [file] = resolve(f"http://127.0.0.1:{server.server_port}/{name}", "data.preferences", tmp_path)
        assert list(read_rows(file, lambda bad: None)) == list(enumerate(ROWS, 1))
    finally:
        server.shutdown()
        server.server_close()
