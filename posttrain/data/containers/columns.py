"""Parquet and Arrow: record batches of bounded size, and of the columns that are asked for only."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data import bounds
from posttrain.data.arrow_messages import MAGIC, decoded_sizes
from posttrain.data.bounds import Expansion
from posttrain.data.containers.rows import Meter, Reading, Row
from posttrain.data.parquet_pages import LONGEST_LIST, LONGEST_STRING, PagesWatched

BATCH: Final = 1024  # rows
MOST_COLUMNS: Final = 200  # that a row has: each costs every row
NAMED: Final = 10  # columns that a message names
READ_AHEAD: Final = 1 << 20  # bytes of a column that are in memory at a time
LARGEST_DICTIONARY: Final = 256 * bounds.MIB
DICTIONARY: Final = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
MEDIA: Final = {"bytes", "path"}  # fields by which `datasets` stores an image, a sound or a film


class UnreadValue:
    """Stands for the value of a column that is there and was not read."""

    def __repr__(self) -> str:
        return "a value that was not read"


UNREAD: Final = UnreadValue()
BROKEN: Final = (pa.ArrowException, OSError, IndexError, KeyError, ValueError, struct.error)


@dataclass(frozen=True)
class Table:
    """What a file of columns gives."""

    batches: Iterator[pa.RecordBatch]
    unread: tuple[str, ...]
    """Columns that are not read, and have something in them as far as is known."""


Start = Callable[[Reading, IO[bytes], Expansion], Table]


def read_parquet(reading: Reading, stream: IO[bytes]) -> Iterator[Row]:
    """Rows of a Parquet file; a column that is not read has the value `UNREAD`."""
    yield from _rows_of(reading, stream, "Parquet", _parquet)


def read_arrow(reading: Reading, stream: IO[bytes]) -> Iterator[Row]:
    """Rows of an Arrow file, in either layout; `datasets` writes the streaming one. Else as `read_parquet`."""
    yield from _rows_of(reading, stream, "Arrow", _arrow)


def chosen(reading: Reading, schema: pa.Schema) -> list[str]:
    """The columns that are read: those asked for; where none of them is there, or all are wanted, all but images and sounds.

    Of a file with very many columns that are all wanted, those that shapes of rows know, or the first ones.

    Raises:
        Refusal: when two have one name.
    """
    reading.refuse_repeated(schema.names)
    asked = [name for name in schema.names if name in reading.columns] if reading.columns is not None else []
    found = asked or [field.name for field in schema if field.name in reading.known or not _is_odd(field.type)]
    found = asked or [name for name in found if not _is_media(schema.field(name).type)]
    if asked or len(found) <= MOST_COLUMNS:
        return found
    few = [name for name in found if name in reading.known] or found[:MOST_COLUMNS]
    reading.note(f"{reading.name} has {len(schema.names):,} columns: only {', '.join(few[:NAMED])} are read")
    return few


def _is_odd(kind: pa.DataType) -> bool:
    """Types whose values may overlap or differ, of which no bound of memory is known (`bounds.row_bytes`); no shape has them."""
    if any(is_one(kind) for is_one in (pa.types.is_list_view, pa.types.is_large_list_view, pa.types.is_union,
                                       pa.types.is_run_end_encoded)):  # fmt: skip
        return True
    return any(_is_odd(kind.field(at).type) for at in range(kind.num_fields))


def _is_media(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_media(kind.value_type)
    return bool(pa.types.is_struct(kind)) and {kind.field(at).name for at in range(kind.num_fields)} == MEDIA


def _parquet(reading: Reading, stream: IO[bytes], so_far: Expansion) -> Table:
    """Batches whose texts are dictionaries where the file has them so: one text for a thousand rows is then held once."""
    limits = {"thrift_container_size_limit": LONGEST_LIST, "thrift_string_size_limit": LONGEST_STRING}
    found = pq.ParquetFile(stream, **limits).metadata
    schema = found.schema.to_arrow_schema()
    names = chosen(reading, schema)
    wanted = frozenset(names)
    every = [found.row_group(g).column(c) for g in range(found.num_row_groups) for c in range(found.num_columns)]
    chunks = [chunk for chunk in every if _column_of(chunk) in wanted]
    for chunk in chunks:
        so_far.check(max(chunk.total_uncompressed_size, 4 * chunk.num_values))
    texts = {chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
    texts -= {chunk.path_in_schema for chunk in chunks if not _repeats(chunk)}
    columns = map(found.schema.column, range(found.num_columns))
    decimals = {column.path for column in columns if "DECIMAL" in str(column.logical_type)}
    rows = min((_rows_at_once(chunk) for chunk in chunks), default=BATCH)
    filled = {_column_of(chunk) for chunk in every if not _only_nulls(chunk)}
    watched = PagesWatched(stream, found, so_far.check)
    file = pq.ParquetFile(watched, read_dictionary=sorted(texts - decimals), metadata=found, pre_buffer=False, **limits)
    # Group by group: of a batch across two, Arrow has no form in which lists and structs hold dictionaries.
    groups = range(found.num_row_groups)
    batches = (each for at in groups for each in file.iter_batches(batch_size=rows, row_groups=[at], columns=names))
    return Table(batches, _unread(reading, [name for name in schema.names if name in filled or name in wanted], wanted))


def _column_of(chunk: pq.ColumnChunkMetaData) -> str:
    return str(chunk.path_in_schema).split(".")[0]


def _repeats(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether texts are stored once however often they come. A dictionary keeps what is read, so that a large chunk has none."""
    return bool(DICTIONARY & set(chunk.encodings)) and chunk.total_uncompressed_size <= LARGEST_DICTIONARY


def _only_nulls(chunk: pq.ColumnChunkMetaData) -> bool:
    return bool(chunk.statistics and chunk.statistics.has_null_count and chunk.statistics.null_count == chunk.num_values)


def _rows_at_once(chunk: pq.ColumnChunkMetaData) -> int:
    """Few where rows are large, or where each value may repeat all that stands before it, so that it is as long as the chunk."""
    whole = int(chunk.total_uncompressed_size)
    largest = whole if "DELTA_BYTE_ARRAY" in chunk.encodings else whole // max(1, chunk.num_values)
    return min(BATCH, max(1, bounds.LONGEST_BATCH // max(1, largest)))


def _arrow(reading: Reading, stream: IO[bytes], so_far: Expansion) -> Table:
    for size in decoded_sizes(stream):
        so_far.check(size)
    stream.seek(0)
    is_file = stream.read(len(MAGIC)) == MAGIC
    stream.seek(0)
    if is_file:
        reader = pa.ipc.open_file(stream)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        reader = batches = pa.ipc.open_stream(stream)
    names = chosen(reading, reader.schema)
    unread = _unread(reading, reader.schema.names, frozenset(names))
    return Table((_sound(batch.select(names)) for batch in batches), unread)


def _unread(reading: Reading, names: Sequence[str], read: frozenset[str]) -> tuple[str, ...]:
    """Columns that each row is told to have; of very many those alone that rows may mean something by."""
    return tuple(name for name in names if name not in read and (len(names) <= MOST_COLUMNS or name in reading.known))


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, whose offsets and indices lead nowhere else: Arrow takes them from the file as they are, and follows them.

    Raises:
        pyarrow.ArrowInvalid: when they do. Text of a column that is not UTF-8 is left to cost its row; inside other values it is
            not, since nothing after it was looked at.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error) or not _is_flat_text(column.type):
                raise
    return batch


def _is_flat_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _rows_of(reading: Reading, stream: IO[bytes], kind: str, start: Start) -> Iterator[Row]:
    """Rows of record batches. A string that is not UTF-8 and a row that is too large cost themselves, a broken file all of it."""
    so_far = Expansion(reading.name, stream.seek(0, io.SEEK_END))
    stream.seek(0)
    row = 0
    try:
        table = start(reading, stream, so_far)
        unread = dict.fromkeys(table.unread, UNREAD)
        for part, size in _pieces(table.batches, so_far, reading.meter):
            if size > bounds.LONGEST_ROW:
                row += 1
                reading.bad(row, f"row_too_large: {size} bytes, over {bounds.LONGEST_ROW}")
                continue
            for value in _values(part):
                row += 1
                if isinstance(value, UnicodeDecodeError):
                    reading.bad(row, f"not_utf8: {value}")
                else:
                    yield row, value | unread if unread else value
    except BROKEN as error:
        raise reading.unreadable(kind, f"{error} (in row {row + 1:,} or after it)") from error


def _pieces(batches: Iterator[pa.RecordBatch], so_far: Expansion, meter: Meter) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Parts of batches that may become Python objects at a time, and the bytes of each part's first row."""
    for batch in batches:
        for part, sizes in bounds.weighed(_timeless(batch)):
            so_far.add(int(sizes.sum()))
            for at, count in bounds.pieces(sizes, BATCH):
                meter.count += int(sizes[at : at + count].sum())
                yield part.slice(at, count), int(sizes[at])


def _timeless(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with dates and times as the numbers that they are stored as: Python has none outside the years 1 to 9999."""
    kinds = [_number_for(kind) for kind in batch.schema.types]
    if kinds == batch.schema.types:
        return batch
    arrays = [array if array.type == kind else _cast(array, kind) for array, kind in zip(batch.columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, batch.schema.names)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return (array.dictionary_decode() if pa.types.is_dictionary(array.type) else array).cast(kind)


def _number_for(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if types.is_dictionary(kind):
        number = _number_for(kind.value_type)
        return kind if number == kind.value_type else number
    if types.is_struct(kind):
        return pa.struct([kind.field(at).with_type(_number_for(kind.field(at).type)) for at in range(kind.num_fields)])
    if types.is_map(kind):
        return pa.map_(_number_for(kind.key_type), _number_for(kind.item_type), kind.keys_sorted)
    for is_list, new in ((types.is_large_list, pa.large_list), (types.is_list, pa.list_)):
        if is_list(kind):
            return new(kind.value_field.with_type(_number_for(kind.value_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_number_for(kind.value_type)), kind.list_size)
    return kind


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    binary = [name for name, kind in zip(batch.schema.names, batch.schema.types, strict=True) if _is_binary(kind)]
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_alone(batch, at) for at in range(batch.num_rows)]
    for row in rows:
        for name in binary if isinstance(row, dict) else ():
            row[name] = _as_text(row[name])
        yield row


def _alone(batch: pa.RecordBatch, at: int) -> dict[str, Any] | UnicodeDecodeError:
    try:
        row: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
        return row
    except UnicodeDecodeError as error:
        return error


def _is_binary(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(plain) or pa.types.is_large_binary(plain) or pa.types.is_binary_view(plain))


def _as_text(value: Any) -> Any:
    """Text, where bytes are; several writers of Parquet leave out which columns are text."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value
