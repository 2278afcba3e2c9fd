"""Sizes of pages, read from their headers: those of every writer, and nothing of what is none."""

from __future__ import annotations

import io
import random

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data.parquet_pages import PagesWatched, decoded_sizes

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


def columns(data: bytes) -> list[tuple[memoryview, int]]:
    """The bytes of every column, and what the footer says that they become, headers included."""
    found = pq.read_metadata(io.BytesIO(data))
    listed = [found.row_group(g).column(c) for g in range(found.num_row_groups) for c in range(found.num_columns)]
    starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in listed]
    return [
        (memoryview(data)[start : start + column.total_compressed_size], column.total_uncompressed_size)
        for start, column in zip(starts, listed, strict=True)
    ]


@pytest.fixture(params=WRITERS)
def data(request) -> bytes:
    file = io.BytesIO()
    WRITERS[request.param](file)
    return file.getvalue()


def test_pages_become_what_an_honest_footer_says(data):
    """But for the headers, of less than 80 bytes each, that the footer counts."""
    for column, said in columns(data):
        sizes = list(decoded_sizes(column))
        assert said - 80 * len(sizes) < sum(sizes) <= said


def test_arrow_reads_each_column_where_it_is_judged(data):
    """A version of Arrow that read otherwise would not be limited."""
    judged: list[int] = []
    watched = PagesWatched(io.BytesIO(data), pq.read_metadata(io.BytesIO(data)), judged.append)
    rows = list(pq.ParquetFile(watched, pre_buffer=False).iter_batches())
    assert pa.Table.from_batches(rows).to_pylist() == TABLE.to_pylist()
    assert sorted(judged) == sorted(sum(decoded_sizes(column)) for column, _ in columns(data))


def test_what_are_no_headers_end_in_one_error_and_soon():
    """Random bytes, and bytes of a real column with some changed: never endless, never another error."""
    file = io.BytesIO()
    WRITERS["many pages"](file)
    (real, _), rng = columns(file.getvalue())[0], random.Random(0)
    for _ in range(2000):
        content = bytearray(rng.randbytes(300) if rng.random() < 0.5 else bytes(real[:300]))
        content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            list(decoded_sizes(memoryview(bytes(content))))
        except IndexError:
            continue


@pytest.mark.parametrize("content", [b"\x1c" * 100_000, b"\x19\xfc" + b"\xff" * 20, b"\x15\x00\x15\x02\x15\x01\x00"])
def test_headers_that_would_not_end_are_none(content):
    """Structs in structs, a list of 2^70 entries, and a page that ends before it begins."""
    with pytest.raises(IndexError):
        list(decoded_sizes(memoryview(content)))
