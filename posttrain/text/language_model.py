"""A quantised fastText model (.ftz, arXiv 1612.03651) out of its bytes, as the kernels `pieces` and `languages` take it."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.pieces import DIMENSION, NO_PIECE, PIECES, Model, hashed

MAGIC: Final = (793712314, 12)
MARK: Final = b"__label__"
SLOTS: Final = 1 << 15
CENTROIDS: Final = 256  # of each part of a vector
_WIDTHS: Final = {"loss": 6, "bucket": 8, "minn": 9, "maxn": 10}  # places among the model's settings
_HIERARCHICAL: Final = 1


class Loaded(NamedTuple):
    """A model and the names of what it tells apart."""

    model: Model
    labels: list[str]


class _Cursor:
    """Reads one thing after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return found

    def array(self, kind: type[np.generic], count: int) -> NDArray[Any]:
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found

    def word(self) -> bytes:
        end = self._data.index(b"\0", self._at)
        found, self._at = self._data[self._at : end], end + 1
        return found


def loaded(data: bytes) -> Loaded:
    """The model of a file.

    Raises:
        ValueError: when it is none of the kind that the kernel computes: quantised, pruned, a tree of labels.
    """
    file = _Cursor(data)
    magic, settings = file.take("2i"), file.take("12i")
    file.take("d")
    kind = {name: settings[at] for name, at in _WIDTHS.items()}
    if magic != MAGIC or kind["minn"] < 2 or (settings[0], kind["bucket"], kind["loss"]) != (DIMENSION, PIECES, _HIERARCHICAL):
        raise ValueError("no fastText model of the size that is computed, with a tree of labels")
    _, count, labels = file.take("3i")
    _, pruned = file.take("2q")
    entries = [(file.word(), *file.take("qb")) for _ in range(count + labels)]
    kept = file.array(np.int32, 2 * pruned).reshape(-1, 2)
    pieces = np.full(PIECES, NO_PIECE, np.uint16)
    pieces[kept[:, 0]] = kept[:, 1]
    rows = _quantised(file)
    if file.take("b") != (0,):
        raise ValueError("a fastText model whose tree is quantised")
    leaves = file.array(np.float32, int(np.prod(file.take("2q")))).reshape(-1, DIMENSION)
    words = [word for word, _, _ in entries[:count]]
    left, right = _tree([times for _, times, _ in entries[count:]])
    model = Model(
        rows=rows,
        text=np.frombuffer(b"".join(words), np.uint8),
        ends=np.cumsum([0, *map(len, words)]).astype(np.int64),
        slots=_slots(words),
        pieces=pieces,
        kept=np.packbits(pieces != NO_PIECE, bitorder="little"),
        leaves=leaves[: len(left)].copy(),
        left=left,
        right=right,
        mark=np.frombuffer(MARK, np.uint8),
        shortest=kind["minn"],
        longest=kind["maxn"],
    )
    return Loaded(model, [name.removeprefix(MARK).decode() for name, _, _ in entries[count:]])


def _quantised(file: _Cursor) -> NDArray[np.float32]:
    """Vectors as products of their length and a centroid for each part of them."""
    (quantised, by_length), (rows, _), (size,) = file.take("bb"), file.take("2q"), file.take("i")
    if not quantised or not by_length:
        raise ValueError("a fastText model that is not quantised, or without lengths")
    codes = file.array(np.uint8, size).reshape(rows, -1)
    parts = _centroids(file)
    lengths = file.array(np.uint8, rows)
    norms = _centroids(file)[0, lengths, 0]
    found = parts[np.arange(codes.shape[1]), codes]  # (rows, parts, numbers of a part)
    return np.ascontiguousarray(norms[:, None] * found.reshape(rows, -1))


def _centroids(file: _Cursor) -> NDArray[np.float32]:
    """Shape (parts, CENTROIDS, numbers of a part)."""
    size, parts, width, last = file.take("4i")
    if width != last:
        raise ValueError("a fastText model whose vectors have a shorter part")
    return file.array(np.float32, size * CENTROIDS).reshape(parts, CENTROIDS, width)


def _slots(words: list[bytes]) -> NDArray[np.int32]:
    slots = np.full(SLOTS, -1, np.int32)
    for number, word in enumerate(words):
        at = int(hashed(np.frombuffer(word, np.uint8), 0, len(word))) % SLOTS
        while slots[at] >= 0:
            at = (at + 1) % SLOTS
        slots[at] = number
    return slots


def _tree(times: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Huffman's tree of labels by how often each came, the most frequent first: children of the inner nodes."""
    labels, never = len(times), 10**15
    counts = [*times, *[never] * (labels - 1)]
    children: list[tuple[int, int]] = []
    leaf, node = labels - 1, labels
    for at in range(labels, 2 * labels - 1):
        both = []
        for _ in range(2):
            if leaf >= 0 and counts[leaf] < counts[node]:
                both.append(leaf)
                leaf -= 1
            else:
                both.append(node)
                node += 1
        children.append((both[0], both[1]))
        counts[at] = counts[both[0]] + counts[both[1]]
    left, right = np.array(children, np.int32).T
    return np.ascontiguousarray(left), np.ascontiguousarray(right)
