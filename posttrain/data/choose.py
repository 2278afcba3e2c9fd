"""Which rows stand for all where not all are measured: chosen by hash, and of every source its share.

The first rows of a file say nothing of the last ones: files are sorted by source, topic, length or date.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import xxhash

if TYPE_CHECKING:
    from posttrain.data.packing import Example

SEED = 1  # of the hash: which rows are chosen has nothing to do with which are held out (`split`)
PARTS = ("prompt", "completion", "chosen", "rejected", "text")


def stratified(keys: Sequence[bytes], sources: Sequence[str], count: int) -> list[int]:
    """Positions of at most `count` rows, in their order: of each source in proportion to its size, one at least where that goes.

    Within a source the rows with the smallest hashes are taken, so that neither the order of rows nor the name of a file matters.

    Args:
        keys: what is hashed of each row, [rows].
        sources: where each row is from, [rows].
        count: how many are wanted.
    """
    hashes = [xxhash.xxh3_64_intdigest(key, SEED) for key in keys]
    sizes, seen = Counter(sources), Counter[str]()
    order: dict[int, tuple[float, int]] = {}
    for row in sorted(range(len(hashes)), key=hashes.__getitem__):
        order[row] = seen[sources[row]] / sizes[sources[row]], hashes[row]
        seen[sources[row]] += 1
    return sorted(sorted(order, key=order.__getitem__)[:count])


def representative(table: pl.DataFrame, count: int) -> pl.DataFrame:
    """At most `count` rows of a table of documents, conversations or pairs, in their order."""
    return table[stratified(row_keys(table), row_sources(table), count)]


def row_keys(table: pl.DataFrame) -> list[bytes]:
    """What a row says, as JSON: not where it stands."""
    parts = [name for name in PARTS if name in table.columns]
    return [json.dumps([_said(part) for part in row], sort_keys=True).encode() for row in table.select(parts).iter_rows()]


def _said(part: Any) -> Any:
    """A text, or messages without the fields that they do not have: what a row says is no other for a field of no message."""
    if not isinstance(part, list):
        return part
    return [{name: value for name, value in message.items() if value is not None} for message in part]


def row_sources(table: pl.DataFrame) -> list[str]:
    """The file of every row; one for all where the table does not say."""
    return table["source"].to_list() if "source" in table.columns else [""] * table.height


def by_source(table: pl.DataFrame) -> dict[str, int]:
    """How many rows each source has, by name."""
    return dict(sorted(Counter(row_sources(table)).items()))


def held_out_pieces(
    documents: pl.DataFrame, count: int, encode: Callable[[list[str]], Sequence[Example]]
) -> tuple[list[Example], pl.DataFrame]:
    """At most `count` pieces of at most as many documents, and these documents; a long one gives no more than its share."""
    table = representative(documents, count)
    pieces = [list(encode([text])) for text in table["text"].to_list()]
    examples = [piece for of_document in pieces for piece in of_document]
    sources = [source for source, each in zip(row_sources(table), pieces, strict=True) for _ in each]
    chosen = stratified([piece.branches[0].tobytes() + piece.prompt.tobytes() for piece in examples], sources, count)
    return [examples[index] for index in chosen], table
