"""One set of rows in every form and every codec, under its own name and under a wrong one, is the same set of rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile

ROWS = [
    {"prompt": 'Say "hi",\nplease', "chosen": "hi\u2028there\u0085", "rejected": "née"},
    {"prompt": "日本?", "chosen": "[1, {", "rejected": "a\tb; c|d"},
    {"prompt": "Why?", "chosen": "}] so", "rejected": "x" * 3000},
]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(), sink)
    return sink.getvalue()


def arrow(new: Callable) -> bytes:
    sink = io.BytesIO()
    with new(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return sink.getvalue()


def cells(delimiter: str, **options: str) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(ROWS[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(ROWS)
    return sink.getvalue().encode()


def columns() -> dict[str, list[str]]:
    return {name: [row[name] for row in ROWS] for name in ROWS[0]}


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
BOM = "\ufeff"
FORMS = {
    "lines.jsonl": lambda: LINES.encode(),
    "lines without a last newline.jsonl": lambda: LINES.rstrip().encode(),
    "carriage returns.jsonl": lambda: LINES.replace("\n", "\r\n").encode(),
    "carriage returns alone.jsonl": lambda: LINES.replace("\n", "\r").encode(),
    "joined.jsonl": lambda: LINES.replace("\n", "").encode(),
    "a mark before each line.jsonl": lambda: "".join(f"{BOM}{line}\n" for line in LINES.split("\n")).encode(),
    "UTF-16.jsonl": lambda: LINES.encode("utf-16"),
    "UTF-16 without a mark.jsonl": lambda: LINES.encode("utf-16-be"),
    "UTF-32.jsonl": lambda: LINES.encode("utf-32"),
    "pretty.jsonl": lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "array.json": lambda: json.dumps(ROWS).encode(),
    "pretty array.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "array with a mark.json": lambda: (BOM + json.dumps(ROWS)).encode(),
    "array.jsonl": lambda: ("[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n").encode(),
    "lines.json": lambda: LINES.encode(),
    "data.json": lambda: json.dumps({"version": "1", "data": ROWS}).encode(),
    "pretty rows.json": lambda: json.dumps({"rows": ROWS, "info": {"data": [1]}}, indent=2).encode(),
    "columns.json": lambda: json.dumps(columns()).encode(),
    "numbered columns.json": lambda: json.dumps({n: dict(enumerate(v)) for n, v in columns().items()}, indent=1).encode(),
    "named rows.json": lambda: json.dumps({str(at): row for at, row in enumerate(ROWS)}).encode(),
    "split.json": lambda: json.dumps({"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}).encode(),
    "cells.csv": lambda: cells(","),
    "cells with a mark.csv": lambda: BOM.encode() + cells(","),
    "semicolons.csv": lambda: cells(";"),
    "cells in UTF-16.csv": lambda: cells(",").decode().encode("utf-16"),
    "all quoted.csv": lambda: cells(",", quoting=csv.QUOTE_ALL),
    "cells.tsv": lambda: cells("\t"),
    "table.parquet": parquet,
    "file.arrow": lambda: arrow(pa.ipc.new_file),
    "stream.arrow": lambda: arrow(pa.ipc.new_stream),
}
CODECS = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".gz of two members": lambda content: gzip.compress(content[:99]) + gzip.compress(content[99:]) + b"\0" * 100,
    ".zst of two frames": lambda content: zstandard.compress(content[:99]) + zstandard.compress(content[99:]),
    ".xz of two streams": lambda content: lzma.compress(content[:99]) + b"\0" * 8 + lzma.compress(content[99:]),
}


def read(path) -> tuple[list, list]:
    bad: list = []
    return [row for _, row in read_rows(SourceFile(path.name, str(path)), bad.append)], bad


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_come_out(tmp_path, form, codec):
    path = tmp_path / f"{form}{codec.split(' ')[0]}"
    path.write_bytes(CODECS[codec](FORMS[form]()))
    assert read(path) == (ROWS, [])


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.parquet", "x.csv.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("codec", ["", ".gz", ".xz"])
@pytest.mark.parametrize("form", ["lines.jsonl", "array.json", "table.parquet", "file.arrow"])
def test_a_wrong_name_does_not_matter(tmp_path, form, codec, name):
    path = tmp_path / name
    path.write_bytes(CODECS[codec](FORMS[form]()))
    assert read(path) == (ROWS, [])


@pytest.mark.parametrize("form", [form for form in FORMS if form.endswith((".jsonl", ".json", ".csv"))])
def test_texts_longer_than_what_is_looked_at_first(tmp_path, form, monkeypatch):
    """Text is read in pieces that end in the middle of a row, of a character and of an escape."""
    monkeypatch.setattr("posttrain.data.containers.sniff.HEAD", 7)
    monkeypatch.setattr("posttrain.data.containers.values.CHUNK", 5)
    path = tmp_path / form
    path.write_bytes(FORMS[form]())
    assert read(path) == (ROWS, [])
