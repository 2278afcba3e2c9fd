"""Small files that would fill the memory: each is refused, or costs its row, in a process that may not take 1.2 GB."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from posttrain.data import readers
from posttrain.data.bounds import FREE, LONGEST_ROW, MIB, pieces, row_bytes
from posttrain.data.collect import collect
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow, read_rows
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
LARGEST = 1.2  # GB that a process may have resident
CHILD = """
import json, sys
from pathlib import Path
from posttrain.data.sources import resolve
from posttrain.data.validate import validate
from posttrain.filters.corpus import filter_corpus
from posttrain.runtime.peak_memory import peak_memory_gb, reset_peak
from schemas.data import Checks
from schemas.filtering import Filtering
from schemas.errors import Refusal
out = Path(sys.argv[1])
for source in sys.argv[2:]:
    for kind in ("corpus", "preferences"):
        said = "not refused"
        reset_peak()
        try:
            files = resolve(source, "data." + kind, out)
            if kind == "corpus":
                filter_corpus(files, Filtering(), 0.1, out)
            else:
                validate({"preferences": files}, Checks(), 0.1, out)
        except Refusal as refusal:
            said = refusal.found
        print(json.dumps([Path(source).name, kind, said, peak_memory_gb()]))
"""


def repeated(column: str, kind: pa.DataType, value: object, rows: int, path: Path) -> None:
    """A Parquet file that holds one value and how often it comes."""
    one = pa.array([value], kind)
    with pq.ParquetWriter(path, pa.schema({column: kind}), compression="zstd", dictionary_pagesize_limit=10 * MIB) as writer:
        writer.write_table(pa.table({column: one.take(pa.array(np.zeros(rows, np.int64)))}))


def zigzag(number: int) -> bytes:
    """A number as thrift's compact protocol writes it."""
    number, written = number << 1, b""
    while number > 127:
        written, number = written + bytes([number & 127 | 128]), number >> 7
    return written + bytes([number])


def lying_parquet(path: Path) -> None:
    """A page of 300 MB; the footer says 1,000 bytes, in as many digits."""
    table = pa.table({"text": ["x" * MIB] * 300})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 30, write_statistics=False)
    said = zigzag(pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size)
    less = zigzag(1000)
    less = less[:-1] + bytes([less[-1] | 128]) + bytes([128]) * (len(said) - len(less) - 1) + b"\0"
    path.write_bytes(path.read_bytes().replace(said, less))


def endless_footer(path: Path) -> None:
    """A footer of 19 bytes that says that a row group has 999,999 columns, for which pyarrow takes half a gigabyte."""
    columns = b"\x19\x1c\x19\xfc" + bytes([999_999 & 127 | 128, 999_999 >> 7 & 127 | 128, 999_999 >> 14])
    footer = b"\x15\x02\x19\x1c\x48\x01r\x15\x00\x00\x16\x00" + columns
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def compressed_arrow(path: Path) -> None:
    table = pa.table({"text": ["0" * 150_000_000]})
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)


def shared_views(path: Path) -> None:
    """10,000 views of one text of a megabyte."""
    text = b"x" * MIB
    view = np.frombuffer(np.array([len(text)], "<i4").tobytes() + text[:4] + np.zeros(2, "<i4").tobytes(), np.uint8)
    views = pa.py_buffer(np.tile(view, 10_000).tobytes())
    table = pa.table({"text": pa.Array.from_buffers(pa.string_view(), 10_000, [None, views, pa.py_buffer(text)])})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def zeros(compress: Callable[[], object], path: Path, line: bytes, count: int) -> None:
    """Many equal lines, compressed piece by piece."""
    with path.open("wb") as stream, compress()(stream) as writer:
        for _ in range(count):
            writer.write(line)


BOMBS: dict[str, Callable[[Path], object]] = {
    "text.parquet": lambda path: repeated("text", pa.string(), "x" * MIB, 400, path),
    "messages.parquet": lambda path: repeated("chosen", MESSAGES, [{"role": "user", "content": "x" * MIB}], 400, path),
    "nothing.parquet": lambda path: repeated("text", pa.string(), None, 20_000_000, path),
    "lying.parquet": lying_parquet,
    "footer.parquet": endless_footer,
    "compressed.arrow": compressed_arrow,
    "views.arrow": shared_views,
    "lines.jsonl.gz": lambda path: zeros(lambda: lambda s: gzip.GzipFile(fileobj=s, mode="wb"), path, b" " * MIB, 100),
    "one.jsonl.zst": lambda path: zeros(lambda: zstandard.ZstdCompressor().stream_writer, path, b"1" * MIB, 500),
    "short.jsonl.gz": lambda path: zeros(lambda: lambda s: gzip.GzipFile(fileobj=s, mode="wb"), path, b"1\n" * MIB, 15),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[tuple[str, str], tuple[str, float]]:
    """What each bomb is refused with, and the peak of memory in GB, by name and kind: in one process, which is slow to start."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, write in BOMBS.items():
        write(folder / name)
        assert (folder / name).stat().st_size < 3 * MIB
    command = [sys.executable, "-c", CHILD, str(folder / "out"), *(str(folder / name) for name in BOMBS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3])
    assert done.returncode == 0, done.stderr
    return {(name, kind): (said, peak) for name, kind, said, peak in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("kind", ["corpus", "preferences"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_decodes_to_gigabytes_is_refused_in_little_memory(refusals, name, kind):
    said, peak = refusals[name, kind]
    assert "bytes that decode to over" in said or "over 100,000 rows" in said or "Exceeded size limit" in said
    assert peak < LARGEST


def read(path: Path) -> tuple[list[tuple[int, dict]], list[BadRow]]:
    bad: list[BadRow] = []
    return list(read_rows(SourceFile(path.name, str(path)), bad.append)), bad


LARGE = {"text": "x" * (LONGEST_ROW + 1)}, {"text": "y" * (LONGEST_ROW // 2)}, {"text": "z"}


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.arrow"])
def test_a_row_over_the_limit_costs_itself_and_one_of_some_megabytes_is_read(tmp_path, name):
    path, table = tmp_path / name, pa.Table.from_pylist(list(LARGE))
    if name == "x.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in LARGE))
    elif name == "x.parquet":
        pq.write_table(table, path, compression="none", use_dictionary=False)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    rows, bad = read(path)
    assert rows == [(2, LARGE[1]), (3, LARGE[2])]
    assert [(each.row, each.code) for each in bad] == [(1, "line_too_long" if name == "x.jsonl" else "row_too_large")]
    assert str(LONGEST_ROW) in bad[0].reason


def test_honest_compression_is_far_below_the_limit(tmp_path):
    """20,000 pairs over 500 prompts: what a sampler writes, with every prompt 40 times."""
    rng = np.random.default_rng(0)
    prompts = ["".join(map(chr, rng.integers(97, 123, 400))) for _ in range(500)]
    drawn = rng.random((20_000, 2)).tolist()
    rows = [{"prompt": prompts[at // 40], "chosen": f"yes {yes}", "rejected": f"no {no}"} for at, (yes, no) in enumerate(drawn)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", compression="zstd")
    assert [row for _, row in read(tmp_path / "x.parquet")[0]] == rows
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    assert [row for _, row in read(tmp_path / "x.jsonl.gz")[0]] == rows


TYPES = {
    "text": (pa.array(["ab", None, "cde"]), [2, 0, 3]),
    "large": (pa.array(["ab", None, "cde"], pa.large_string()), [2, 0, 3]),
    "view": (pa.array(["ab", None, "c" * 40], pa.string_view()), [2, 0, 40]),
    "dictionary": (pa.array(["ab", None, "cde"]).dictionary_encode(), [2, 0, 3]),
    "list": (pa.array([["a", "bc"], None, []]), [3, 0, 0]),
    "struct": (pa.array([{"a": "x", "b": "yz"}, None, {"a": None, "b": "y"}]), [3, 0, 1]),
    "map": (pa.array([[("k", "vv")], None, []], pa.map_(pa.string(), pa.string())), [3, 0, 0]),
    "pairs": (pa.array([["a", "b"], None, ["cc", "d"]], pa.list_(pa.string(), 2)), [2, 0, 3]),
    "number": (pa.array([1, None, 3]), [8, 8, 8]),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("at", [0, 1])
def test_the_weight_of_a_row_is_its_text_and_a_little(name, at, monkeypatch):
    """With nothing for a value itself; of a part of an array as of all of it. A view may keep what a null hides."""
    monkeypatch.setattr("posttrain.data.bounds.VALUE_COST", 0)
    array, expected = TYPES[name]
    assert row_bytes(array.slice(at)).tolist() == expected[at:]


def test_a_column_whose_values_may_overlap_is_refused_where_a_shape_reads_it(tmp_path):
    array = pa.array([["a"]], pa.list_view(pa.string()))
    with pa.ipc.new_stream(tmp_path / "x.arrow", pa.schema({"text": array.type})) as writer:
        writer.write_table(pa.table({"text": array}))
    with pytest.raises(Refusal, match="a column of type list_view"):
        list(read_rows(SourceFile("x.arrow", str(tmp_path / "x.arrow")), print, known=frozenset({"text"})))


def test_pieces_end_at_the_limits_of_rows_and_bytes():
    half, all_of_it = FREE // 2, LONGEST_ROW + 1
    sizes = np.array([1, 1, 1, half, half, 1, all_of_it, 1, 1])
    assert list(pieces(sizes, 3)) == [(0, 3), (3, 2), (5, 1), (6, 1), (7, 2)]


def test_more_bad_rows_than_are_kept_refuse_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_BAD", 2)
    path = tmp_path / "x.jsonl"
    path.write_text("1\n2\n3\n")
    with pytest.raises(Refusal, match="over 2 rows that cannot be read, the last at 3: not_an_object"):
        read(path)
    path.write_text('{"prompt": 1}\n' * 3)
    with pytest.raises(Refusal, match="over 2 rows that cannot be read, the last at 3: missing_columns"):
        collect(KINDS["preferences"], [SourceFile(path.name, str(path))])


def test_a_row_nested_deeper_than_can_be_written_is_quarantined(tmp_path):
    """orjson reads 1,024 levels and writes 254."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": ' + "[" * 500 + "]" * 500 + '}\n{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    table, bad, rows = collect(KINDS["preferences"], [SourceFile(path.name, str(path))])
    assert (table.height, rows, [each.code for each in bad]) == (1, 2, ["missing_columns"])
