"""Exact deduplication: documents that are equal after Unicode, case and white-space folding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from posttrain.text.kernels.folding import folded
from posttrain.text.kernels.text import Places

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8"), ("passes", "?")])
"""Fingerprint in two halves, number of the document, and whether no rule rejects it."""
COPY = np.dtype([("number", "<i8"), ("of", "<i8"), ("jaccard", "<f8")])
"""A document, the earlier one that is kept in its place, and the Jaccard index of the two."""

Records = NDArray[Any]


def fingerprint(text: str) -> bytes:
    """XXH3 (128 bits) of the folded text.

    Folded is NFC, case folding, NFC again (case folding can undo the first), and each run of white space as one space.
    """
    return xxhash.xxh3_128_digest(folded(text))


def fingerprints(texts: Iterable[bytes | memoryview]) -> list[bytes]:
    """XXH3 (128 bits) of texts that are folded already (`kernels.folding.fold`)."""
    return [xxhash.xxh3_128_digest(text) for text in texts]


def together(prints: pl.Series) -> bytes:
    """The fingerprints of a column, one after the other, without an object of Python for each."""
    column = prints.to_arrow().cast(pa.large_binary())
    ends = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    return column.buffers()[2][ends[0] : ends[-1]].to_pybytes() if len(column) else b""


def keys(prints: bytes, numbers: Places, passes: NDArray[np.bool_]) -> Records:
    """Records of documents, sorted by fingerprint.

    Args:
        prints: one after the other.
    """
    halves = np.frombuffer(prints, ">u8").reshape(-1, 2)
    found = np.empty(len(halves), KEY)
    found["high"], found["low"], found["number"], found["passes"] = halves[:, 0], halves[:, 1], numbers, passes
    # To sort the records themselves takes ten times as long.
    ordered: Records = found[np.lexsort((found["number"], found["low"], found["high"]))]
    return ordered


def copies(found: Records) -> Records:
    """Documents that repeat an earlier one which passes the rules, sorted by number.

    The first that passes stands for all: a document is never dropped in favour of one that is dropped itself.

    Args:
        found: all keys of some fingerprints, shape (documents,), in any order.
    """
    order = np.lexsort((found["number"], found["low"], found["high"]))
    found = found[order]
    new = np.ones(len(found), bool)
    new[1:] = (found["high"][1:] != found["high"][:-1]) | (found["low"][1:] != found["low"][:-1])
    group = np.cumsum(new) - 1
    passing = np.flatnonzero(found["passes"])
    groups, first = np.unique(group[passing], return_index=True)
    kept = np.full(int(group[-1]) + 1 if len(group) else 0, len(found))  # of each group; behind all where none passes
    kept[groups] = passing[first]
    repeats = np.flatnonzero(np.arange(len(found)) > kept[group])
    result = np.empty(len(repeats), COPY)
    result["number"], result["of"] = found["number"][repeats], found["number"][kept[group[repeats]]]
    result["jaccard"] = 1.0
    result.sort(order="number")
    return result
