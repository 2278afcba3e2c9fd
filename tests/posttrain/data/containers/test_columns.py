"""Parquet and Arrow: only the columns that are asked for are read, and what is in the others does no harm."""

from __future__ import annotations

import datetime
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data.containers import columns
from posttrain.data.containers.columns import UNREAD
from posttrain.data.readers import read_rows
from posttrain.data.sources import SourceFile
from posttrain.runtime.peak_memory import peak_memory_gb, reset_peak
from schemas.errors import Refusal

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
BODY = 32  # bytes of a message of five letters: six offsets of 4 bytes and the letters, filled up to eights
FAR = 10**17  # microseconds: the year 5138


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)


def read(path: Path, columns: set[str] | None = None) -> list[dict]:
    wanted = None if columns is None else frozenset(columns)
    return [row for _, row in read_rows(SourceFile(path.name, str(path)), lambda bad: None, columns=wanted)]


@pytest.fixture(params=["x.parquet", "x.arrow"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def test_only_the_columns_that_are_asked_for_are_read(path):
    write(path, pa.table({"prompt": ["a", "b"], "chosen": ["c", "d"], "extra": [1, 2]}))
    assert read(path, {"prompt", "chosen", "rejected"}) == [
        {"prompt": "a", "chosen": "c", "extra": UNREAD},
        {"prompt": "b", "chosen": "d", "extra": UNREAD},
    ]


def test_where_none_of_them_is_there_all_are_read_so_that_a_message_can_name_them(path):
    write(path, pa.table({"question": ["a"], "answer": ["b"]}))
    assert read(path, {"prompt"}) == [{"question": "a", "answer": "b"}]


def test_images_are_not_read_unless_asked_for(path):
    image = pa.array([{"bytes": b"\x89PNG", "path": None}], IMAGE)
    write(path, pa.table({"prompt": ["a"], "image": image, "images": pa.array([image.to_pylist()], pa.list_(IMAGE))}))
    assert read(path) == [{"prompt": "a", "image": UNREAD, "images": UNREAD}]


def test_a_column_of_nulls_is_no_column_that_was_not_read(tmp_path):
    write(tmp_path / "x.parquet", pa.table({"prompt": ["a", "b"], "images": pa.nulls(2, pa.list_(IMAGE))}))
    assert read(tmp_path / "x.parquet") == [{"prompt": "a"}, {"prompt": "b"}]


def test_dates_of_any_year_are_numbers(path):
    """Python has none outside the years 1 to 9999, and none with nanoseconds."""
    turns = pa.array([[{"content": "hi", "at": 10**18}]], pa.list_(pa.struct({"content": pa.string(), "at": pa.timestamp("us")})))
    day = pa.array([3_000_000], pa.date32())
    late = pa.array([FAR * 10], pa.timestamp("us"))
    write(path, pa.table({"conversation": turns, "day": day, "late": late, "took": pa.array([7], pa.duration("ns"))}))
    assert read(path) == [{"conversation": [{"content": "hi", "at": 10**18}], "day": 3_000_000, "late": FAR * 10, "took": 7}]


def test_an_honest_date_is_a_number_too(path):
    write(path, pa.table({"a": ["x"], "on": [datetime.date(1970, 1, 11)]}))
    assert read(path) == [{"a": "x", "on": 10}]


def test_text_that_is_stored_as_bytes_is_text(path):
    write(
        path,
        pa.table({"a": pa.array([b"caf\xc3\xa9", b"\xff\xfe", None]), "b": pa.array([b"x", b"y", b"z"]).dictionary_encode()}),
    )
    assert [row["a"] for row in read(path)] == ["café", b"\xff\xfe", None]
    assert [row["b"] for row in read(path)] == ["x", "y", "z"]


def test_two_columns_of_one_name_are_refused(path):
    write(path, pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]))
    with pytest.raises(Refusal, match="two columns of the name a"):
        read(path)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_file_that_is_cut_is_refused_since_its_directory_stands_at_its_end(tmp_path, share, keep):
    whole = tmp_path / "whole.parquet"
    write(whole, pa.table({"a": [f"text {at}" for at in range(5_000)]}))
    cut = tmp_path / "x.parquet"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(Refusal, match="content that is not Parquet") as refusal:
        list(read_rows(SourceFile("x.parquet", str(cut)), lambda bad: None, keep_incomplete=keep))
    assert refusal.value.where == "x.parquet"


def test_a_column_that_is_not_read_takes_no_memory(tmp_path):
    """400 MB of images beside 400 prompts, in one row group."""
    images = (b"\xff" + bytes([at]) * 999_999 for at in range(200))
    batch = pa.table({"prompt": ["q"] * 200, "image": pa.array(list(images))})
    with pq.ParquetWriter(tmp_path / "x.parquet", batch.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(pa.concat_tables([batch, batch]))
    del batch
    reset_peak()
    before = peak_memory_gb()
    assert len(read(tmp_path / "x.parquet", {"prompt"})) == 400
    assert peak_memory_gb() - before < 0.1


def test_of_very_many_columns_those_that_shapes_know_are_read(tmp_path):
    """`label` too, which may not be left out without a word."""
    wide = pa.table({f"c{at}": [at] * 3 for at in range(columns.MOST_COLUMNS)} | {"prompt": ["q"] * 3, "label": [True] * 3})
    pq.write_table(wide, tmp_path / "x.parquet")
    notes: list[str] = []
    known = frozenset({"prompt", "label", "chosen"})
    rows = read_rows(SourceFile("x.parquet", str(tmp_path / "x.parquet")), print, known=known, note=notes.append)
    assert [row for _, row in rows] == [{"prompt": "q", "label": True}] * 3
    assert notes == ["x.parquet has 202 columns: only prompt, label are read"]


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_messages_in_many_row_groups_are_read(tmp_path, group):
    """Data sets of the hub have groups of a thousand rows, which are no multiple of what is read at a time."""
    rows = [{"messages": [{"role": "user", "content": f"q {n % 3}"}, {"role": "assistant", "content": "é"}]} for n in range(2100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=group)
    assert read(tmp_path / "x.parquet") == rows


STAMPS = pa.array([FAR, 1], pa.timestamp("us"))
DAYS = pa.map_(pa.string(), pa.date32())


@pytest.mark.parametrize(
    ("held", "read_as"),
    [
        (pa.DictionaryArray.from_arrays(pa.array([0, 1]), STAMPS), [FAR, 1]),
        (pa.StructArray.from_arrays([STAMPS], ["at"]), [{"at": FAR}, {"at": 1}]),
        (pa.array([[FAR], []], pa.list_(pa.timestamp("us", "UTC"))), [[FAR], []]),
        (pa.FixedSizeListArray.from_arrays(STAMPS, 1), [[FAR], [1]]),
        (pa.array([[("a", 2**30)], []], pa.map_(pa.string(), pa.int32())).cast(DAYS), [[("a", 2**30)], []]),
        (pa.array([2**62, 1], pa.duration("s")), [2**62, 1]),
    ],
    ids=["dictionary", "struct", "list", "list of one length", "map", "duration"],
)
def test_times_inside_of_other_values_are_numbers_too(path, held, read_as):
    write(path, pa.table({"prompt": ["a", "b"], "when": held}))
    assert [row["when"] for row in read(path)] == read_as


@pytest.mark.parametrize(
    "held",
    [
        pa.array([[1], [2]], pa.list_view(pa.int64())),
        pa.RunEndEncodedArray.from_arrays([1, 2], ["x", "y"]),
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["x", "y"])]),
    ],
    ids=["list view", "runs", "union"],
)
def test_a_column_of_an_odd_type_is_not_read_unless_shapes_know_its_name(tmp_path, held):
    path = tmp_path / "x.arrow"
    write(path, pa.table({"prompt": ["a", "b"], "odd": held}))
    assert read(path) == [{"prompt": "a", "odd": UNREAD}, {"prompt": "b", "odd": UNREAD}]
    file = SourceFile(path.name, str(path))
    with pytest.raises(Refusal, match="a column of type"):
        list(read_rows(file, lambda bad: None, known=frozenset({"odd"})))


@pytest.mark.parametrize("open_writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_a_message_that_claims_more_bytes_than_the_file_has_takes_no_memory(tmp_path, open_writer):
    """256 TB: the number is a message's own, or that of the directory at the end of a file."""
    path = tmp_path / "rows.arrow"
    table = pa.table({"prompt": ["a"] * 5})
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)
    whole, claimed = path.read_bytes(), struct.pack("<q", BODY)
    places = [at for at in range(len(whole)) if whole[at : at + 8] == claimed]
    assert places
    for at in places:
        path.write_bytes(whole[:at] + struct.pack("<q", 2**48) + whole[at + 8 :])
        with pytest.raises(Refusal, match="content that is not Arrow"):
            read(path)
