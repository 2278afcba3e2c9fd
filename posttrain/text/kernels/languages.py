"""What fastText's classifier computes (Joulin et al. 2016, arXiv 1607.01759): the mean of the vectors of words and of pieces of
words, and the most probable leaf of a Huffman tree. In the order of its own additions, so that scores are equal bit by bit.

What is looked up for a word is kept, since most words come again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.pieces import DIMENSION, ENDING, Model, bracketed, vectors_of
from posttrain.text.kernels.text import MIXER, Bytes, Hashes, Places

SIZE_BITS = 6
MOST = 1 << SIZE_BITS  # vectors from which those of a word are not kept
FEWEST_SLOTS, MOST_SLOTS = 1 << 6, 1 << 15  # for words that are kept, of which at most half are taken
BYTES_OF_SLOT, VECTORS_OF_SLOT = 16, 4  # bytes of text for which there is one; vectors of a word on average, and twice as many
_FNV_BASIS, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
_SMALL = 1e-5  # that is added before a logarithm is taken, so that a leaf may have a little more than its parent:
_ROUNDING = 1e-3  # more than that comes to on the way down


class Room(NamedTuple):
    """Memory that the texts of a batch take one after the other, and what is kept of their words: most come again."""

    word: Bytes
    places: NDArray[np.int32]
    total: NDArray[np.float32]
    part: NDArray[np.float32]
    nodes: NDArray[np.int32]
    marks: NDArray[np.float32]
    keys: Hashes
    """The hash of the word that is kept in each slot, or 0."""
    spans: NDArray[np.uint32]
    """Where the vectors of this begin in `vectors`, and in the last `SIZE_BITS` bits how many there are."""
    vectors: NDArray[np.int32]
    """Which vectors words have, one word after the other."""
    kept: Places
    """How many words are kept, and how many vectors they have."""


@kernel
def room(model: Model, size: int, bytes_in_all: int) -> Room:
    """Enough for texts of so many bytes each."""
    labels, slots = len(model.left) + 1, FEWEST_SLOTS
    while slots < MOST_SLOTS and slots * BYTES_OF_SLOT < bytes_in_all:
        slots *= 2
    return Room(
        np.empty(size + 2, np.uint8),
        np.empty((size + 2) * (model.longest - model.shortest + 1) + 1, np.int32),
        np.empty(DIMENSION, np.float32),
        np.empty(DIMENSION, np.float32),
        np.empty(labels, np.int32),
        np.empty(labels, np.float32),
        np.zeros(slots, np.uint64),
        np.empty(slots, np.uint32),
        np.empty(slots * VECTORS_OF_SLOT, np.int32),
        np.zeros(2, np.int64),
    )


@kernel
def told(model: Model, data: Bytes, start: int, cut: int, end: int, sure: float, room: Room) -> tuple[int, np.float32]:
    """The most probable label of `data[start:end]`, and its probability: of its part up to `cut` where that is sure.

    Args:
        data: UTF-8; all ASCII white space separates words.
        sure: probability from which no more than the first part is looked at.
    """
    total, part = room.total, room.part
    total[:] = np.float32(0)
    count, at = _add_words(model, data, start, cut, end, total, room)
    part[:] = total
    more, _ = _add_words(model, data, at, cut, cut, part, room) if at < cut else (0, 0)  # the word that is cut
    label, score = _most_probable(model, part, count + more, room)
    if score < sure and cut < end and at < end:
        more, at = _add_words(model, data, at, end, end, total, room)
        label, score = _most_probable(model, total, count + more, room)
    return label, score


@kernel
def languages(data: Bytes, offsets: Places, model: Model, labels: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
    """`told` of each whole text; `labels` and `scores`, of shape (texts,), are filled."""
    held = room(model, np.diff(offsets).max() if len(labels) else 0, offsets[-1] - offsets[0] if len(labels) else 0)
    for each in range(len(labels)):
        start, end = offsets[each], offsets[each + 1]
        labels[each], scores[each] = told(model, data, start, end, end, 0.0, held)


@kernel
def _add_words(
    model: Model, data: Bytes, at: int, cut: int, end: int, total: NDArray[np.float32], room: Room
) -> tuple[int, int]:  # fmt: skip
    """Add the words of a text from a place on that are over by `cut`; returns how many vectors these have, and where the next
    one starts, which is the end where no more words count."""
    # Out of the records, which would be copied in the loop.
    rows, keys, spans, vectors, places, count = model.rows, room.keys, room.spans, room.vectors, room.places, 0
    while True:
        while at < end and _is_blank(data[at]):
            at += 1
        stop, key = at, _FNV_BASIS
        while stop < end and not _is_blank(data[stop]):
            key = (key ^ np.uint64(data[stop])) * _FNV_PRIME
            stop += 1
        if stop > cut or stop == at:
            return count, at
        key |= np.uint64(1)
        slot = _slot_of(keys, key)
        if keys[slot] == key:
            first, found = spans[slot] >> SIZE_BITS, spans[slot] & (MOST - 1)
            for each in range(first, first + found):
                _add(total, rows, vectors[each])
        else:
            found = vectors_of(model, bracketed(data, at, stop, room.word), places)
            if found < 0:
                return count, end
            for each in range(found):
                _add(total, rows, places[each])
            _keep(room, key, slot, places[:found])
        count, at = count + np.int64(found), stop


@kernel
def _slot_of(keys: Hashes, key: int) -> int:
    """The slot of a word, or the free one where it may be kept."""
    slot = np.int64((key * MIXER) >> np.uint64(40)) & (len(keys) - 1)
    while keys[slot] != key and keys[slot] != np.uint64(0):
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@kernel
def _keep(room: Room, key: int, slot: int, found: NDArray[np.int32]) -> None:
    """Keep the vectors of a word; where there is no room any more, it is the first of a new start."""
    if len(found) >= MOST:
        return
    words, used = room.kept
    if 2 * (words + 1) > len(room.keys) or used + len(found) > len(room.vectors):
        room.keys[:] = np.uint64(0)
        words, used, slot = 0, 0, _slot_of(room.keys, key)
    room.keys[slot], room.spans[slot] = key, used << SIZE_BITS | len(found)
    room.vectors[used : used + len(found)] = found
    room.kept[0], room.kept[1] = words + 1, used + len(found)


@kernel
def _is_blank(byte: int) -> bool:
    return byte <= 32 and (byte >= 28 or 9 <= byte <= 13 or byte == 0)


@kernel
def _add(total: NDArray[np.float32], rows: NDArray[np.float32], row: int) -> None:
    """Of an array and a place: a row as an array of its own would be counted by who holds it, which takes as long again. Places
    without a sign need not be looked at for being counted from the end."""
    for at in range(DIMENSION):
        total[np.uint64(at)] += rows[np.uint64(row), np.uint64(at)]


@kernel
def _most_probable(model: Model, total: NDArray[np.float32], count: int, room: Room) -> tuple[int, np.float32]:
    """The leaf with the greatest product of the probabilities of its branches, and that product.

    Args:
        total: sum of so many vectors, without that of the word that ends a text; changed.
    """
    _add(total, model.rows, ENDING)
    total *= np.float32(1.0 / (count + 1))
    labels, nodes, marks = len(model.left) + 1, room.nodes, room.marks
    nodes[0], marks[0], waiting = 2 * labels - 2, np.float32(0), 1
    best, found = np.float32(-np.inf), -1
    least = max(np.float32(math.log(_SMALL)), np.float32(_of_nearest(model, total) - _ROUNDING))
    while waiting:
        waiting -= 1
        node, score = nodes[waiting], marks[waiting]
        if score < least or score < best:
            continue
        if node < labels:
            best, found = score, node
            continue
        left, right = _branches(model.leaves, node - labels, total)
        # The right one waits below: the left one comes first.
        nodes[waiting], marks[waiting] = model.right[node - labels], score + right
        nodes[waiting + 1], marks[waiting + 1] = model.left[node - labels], score + left
        waiting += 2
    return found, np.float32(math.exp(best))


@kernel
def _of_nearest(model: Model, total: NDArray[np.float32]) -> np.float32:
    """The logarithm of the leaf where each branch is the more probable one: none with less is the most probable."""
    labels = len(model.left) + 1
    node, score = 2 * labels - 2, np.float32(0)
    while node >= labels:
        left, right = _branches(model.leaves, node - labels, total)
        score += max(left, right)
        node = np.int64(model.left[node - labels] if left > right else model.right[node - labels])
    return score


@kernel
def _branches(nodes: NDArray[np.float32], node: int, total: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """The logarithms of the probabilities of the two children of an inner node."""
    sum_ = np.float32(0)
    for at in range(DIMENSION):
        sum_ += nodes[np.uint64(node), np.uint64(at)] * total[np.uint64(at)]
    right = np.float32(np.float64(1.0) / np.float64(np.float32(1) + np.float32(math.exp(-sum_))))
    return _log(np.float32(1.0 - np.float64(right))), _log(right)


@kernel
def _log(probability: np.float32) -> np.float32:
    return np.float32(math.log(np.float64(probability) + _SMALL))
