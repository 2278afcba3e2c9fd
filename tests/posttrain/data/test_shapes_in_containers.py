"""One data set in every shape and in every container and compression is one table."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from posttrain.data.collect import collect
from posttrain.data.kinds import KINDS
from posttrain.data.sources import SourceFile
from tests.posttrain.data.rows_in_shapes import PAIRS, TALKS, Row, bot, user

COUNT = 18  # rows: from 16 on they are read by columns where they are usual
TRIPLES = [(f"What, is {n}?\nSay it.", f'It\'s "good" né {n}.', f"No;\t{n}.") for n in range(COUNT)]


def lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def cells(delimiter: str) -> Callable[[list[Row]], bytes]:
    """What is no text is written as JSON, as people do who have to; an empty cell is null."""

    def written(rows: list[Row]) -> bytes:
        sink = io.StringIO(newline="")
        writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows({name: json.dumps(cell) if isinstance(cell, list | dict) else cell for name, cell in row.items()}
                         for row in rows)  # fmt: skip
        return sink.getvalue().encode()

    return written


def parquet(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def arrow(new: Callable[..., Any]) -> Callable[[list[Row]], bytes]:
    def written(rows: list[Row]) -> bytes:
        sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        return sink.getvalue()

    return written


CONTAINERS: dict[str, Callable[[list[Row]], bytes]] = {
    "lines.jsonl": lines,
    "array.json": lambda rows: json.dumps(rows).encode(),
    "wrapped.json": lambda rows: json.dumps({"version": 1, "data": rows}, indent=1).encode(),
    "columns.json": lambda rows: json.dumps(columns(rows)).encode(),
    "cells.csv": cells(","),
    "cells.tsv": cells("\t"),
    "table.parquet": parquet,
    "file.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
}
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content, 1),
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
}
TABLES = ("table.parquet", "file.arrow", "stream.arrow")
CELLS = ("cells.csv", "cells.tsv")
MESSAGES = "columns.json"  # a file of one row whose columns hold messages looks the same, and is read as that
STRUCTURED = {
    "content parts", "UltraFeedback", "Nectar", "scores apart", "ranks apart", "several rejected", "solutions", "OpenAI",
    "WebGPT", "mixed",
}  # fmt: skip
"""Shapes of which a column holds more than texts, numbers and messages: in cells it would be text that nobody can tell apart."""


def left_out(shape: str, container: str, row: Row) -> bool:
    """Bytes are in tables alone, in which a column has one type; the rest is said at the names above."""
    held = {type(value) for value in row.values()}
    return (
        (bytes in held and container not in TABLES)
        or (container in CELLS and shape in STRUCTURED)
        or (container in TABLES and shape == "UltraFeedback")  # a number, and a number as text
        or (container == MESSAGES and dict in held)
    )


def codecs_of(shapes: Iterable[str], shape: str) -> list[str]:
    """All of them for the first shape, and one in turn for each other: what a shape is made of does not depend on its codec."""
    at = list(shapes).index(shape)
    return list(CODECS)[at % len(CODECS) :][:1] if at else list(CODECS)


def tables_of(kind: str, container: str, codecs: list[str], rows: list[Row], folder: Path) -> dict[str, pl.DataFrame]:
    found, content = {}, CONTAINERS[container](rows)
    for codec in codecs:
        path = folder / f"{container}{codec}"
        path.write_bytes(CODECS[codec](content))
        table, bad, rows_in = collect(KINDS[kind], [SourceFile("x", str(path))])
        assert (bad, rows_in) == ([], COUNT), codec
        found[codec] = table
    return found


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shape", PAIRS)
def test_pairs(tmp_path: Path, shape: str, container: str) -> None:
    rows = [PAIRS[shape](*triple) for triple in TRIPLES]
    if left_out(shape, container, rows[0]):
        pytest.skip("such a file does not say what its columns are")
    times = 3 if shape == "prompt in front" else 1
    end = "\r\n" if shape == "HH, CRLF" else "\n"
    asked = [q.replace("\n", end) * times for q, _, _ in TRIPLES]
    expected = [([user(q)], [bot(c)], [bot(r)], at) for at, (q, (_, c, r)) in enumerate(zip(asked, TRIPLES, strict=True), 1)]
    for codec, table in tables_of("preferences", container, codecs_of(PAIRS, shape), rows, tmp_path).items():
        found = table.select("prompt", "chosen", "rejected", "row").rows()
        assert [plain(row) for row in found] == expected, codec


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shape", TALKS)
def test_conversations(tmp_path: Path, shape: str, container: str) -> None:
    rows = [TALKS[shape](q, a) for q, a, _ in TRIPLES]
    if left_out(shape, container, rows[0]):
        pytest.skip("such a file does not say what its columns are")
    expected = [([user(q)], [bot(a)], at) for at, (q, a, _) in enumerate(TRIPLES, 1)]
    for codec, table in tables_of("instructions", container, codecs_of(TALKS, shape), rows, tmp_path).items():
        assert [plain(row) for row in table.select("prompt", "completion", "row").rows()] == expected, codec


def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Messages without the field that none of them has."""
    assert all(message["extra"] is None for cell in row[:-1] for message in cell)
    return (*([{name: message[name] for name in ("role", "content")} for message in cell] for cell in row[:-1]), row[-1])
