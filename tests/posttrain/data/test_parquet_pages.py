"""Sizes of pages, read from their headers: those of every writer, and nothing of what is none."""

from __future__ import annotations

import io
import random

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import parquet_pages
from posttrain.data.parquet_pages import PagesWatched, _Column

ROWS = 5000
TABLE = pa.table(
    {
        "text": [f"x{n}" for n in range(ROWS)],
        "number": [n / 7 for n in range(ROWS)],
        "chat": [[{"role": "user", "content": f"c{n}"}] for n in range(ROWS)],
        "flag": [True, None] * (ROWS // 2),
        "nothing": pa.array([None] * ROWS, pa.string()),
    }
)
PLAIN = {"compression": "none", "use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
SECOND = {"data_page_version": "2.0", "write_page_checksum": True, "write_page_index": True}
WRITERS = {
    "many pages": lambda file: pq.write_table(TABLE, file, compression="zstd", row_group_size=2000, data_page_size=1000),
    "the second version": lambda file: pq.write_table(TABLE, file, compression="snappy", **SECOND),
    "without compression": lambda file: pq.write_table(TABLE, file, **PLAIN),
    "polars": lambda file: pl.from_arrow(TABLE).write_parquet(file, data_page_size=5000),
}


def said_of(data: bytes) -> list[tuple[int, int]]:
    """Of every column where it begins, and what the footer says that it becomes, headers included."""
    found = pq.read_metadata(io.BytesIO(data))
    listed = [found.row_group(g).column(c) for g in range(found.num_row_groups) for c in range(found.num_columns)]
    starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in listed]
    return sorted(zip(starts, (column.total_uncompressed_size for column in listed), strict=True))


def watched(data: bytes, judge=lambda decoded: None) -> PagesWatched:
    return PagesWatched(io.BytesIO(data), pq.read_metadata(io.BytesIO(data)), judge)


@pytest.fixture(params=WRITERS)
def data(request) -> bytes:
    file = io.BytesIO()
    WRITERS[request.param](file)
    return file.getvalue()


@pytest.mark.parametrize("buffer", [0, 300, 1 << 17])
def test_arrow_reads_no_page_that_was_not_judged_and_pages_become_what_an_honest_footer_says(data, buffer):
    """A column at a time and in pieces, which cut headers. The footer counts the headers, of less than 80 bytes each."""
    judged: list[int] = []
    file = watched(data, judged.append)
    rows = list(pq.ParquetFile(file, pre_buffer=False, buffer_size=buffer).iter_batches())
    assert pa.Table.from_batches(rows).to_pylist() == TABLE.to_pylist()
    for column, (start, said) in zip(file._columns, said_of(data), strict=True):
        assert (column.start, column.next) == (start, column.end), "not read to its end"
        assert said - 80 * len(judged) < column.decoded <= said
        assert column.decoded in judged


def test_a_page_that_is_too_large_is_never_decompressed(data):
    """Whoever judges refuses: Arrow passes that on."""

    def refuse(decoded: int) -> None:
        raise OverflowError(decoded)

    with pytest.raises(OverflowError):
        list(pq.ParquetFile(watched(data, refuse), pre_buffer=False).iter_batches())


def test_what_are_no_headers_end_in_one_error_and_soon():
    """Bytes of a real file, with some of the columns changed: never endless, never another error, whatever the pieces."""
    file = io.BytesIO()
    WRITERS["many pages"](file)
    real, rng, broken = file.getvalue(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(real)
        for _ in range(3):
            content[rng.randrange(4, len(real) // 2)] = rng.randrange(256)
        changed = PagesWatched(io.BytesIO(bytes(content)), pq.read_metadata(io.BytesIO(real)), lambda decoded: None)
        try:
            while changed.read(rng.choice([7, 1000, -1])):
                continue
        except IndexError:
            broken += 1
    assert broken > 10


def test_columns_that_overlap_are_none(monkeypatch):
    """One inside of another would hide it from whoever judges."""
    file = io.BytesIO()
    WRITERS["polars"](file)
    monkeypatch.setattr(parquet_pages, "_place", lambda column: (4, 1000))
    with pytest.raises(IndexError, match="overlap"):
        watched(file.getvalue())


ENDLESS = {
    "structs in structs": b"\x1c" * 100_000,
    "a list of 2^70 entries": b"\x19\xfc" + b"\xff" * 200,
    "a list of 16,383 entries": b"\x19\xfc\xff\x7f" + b"\x00" * 200,
    "a page that ends before it begins": b"\x15\x00\x15\x02\x15\x01\x00",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_headers_that_would_not_end_are_none(name):
    with pytest.raises(IndexError):
        _Column(0, len(ENDLESS[name]), lambda decoded: None).look(0, ENDLESS[name])


def test_a_table_without_rows_has_dictionaries_and_no_pages():
    """Arrow's writer leaves one row group of no rows, whose columns name no page of data."""
    written = io.BytesIO()
    with pq.ParquetWriter(written, schema := pa.schema({"a": pa.string(), "b": pa.string()})) as writer:
        writer.write_table(schema.empty_table(), row_group_size=1)
    assert pq.read_table(watched(written.getvalue())).num_rows == 0
