"""What fastText's classifier computes (Joulin et al. 2016, arXiv 1607.01759): the mean of the vectors of words and of pieces of
words, and the most probable leaf of a Huffman tree. In the order of its own additions, so that scores are equal bit by bit.

Its dictionary is pruned (arXiv 1612.03651): a piece whose hash was not kept has no vector.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.folding import is_ascii
from posttrain.text.kernels.text import Bytes, Places

_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_BEGIN, _END = np.uint8(60), np.uint8(62)  # < and > around a word
ENDING = 0  # the row of the word that ends every text
NO_PIECE = np.uint16(0xFFFF)
PIECES = 2_000_000  # hashes of pieces, and
DIMENSION = 16  # of vectors: known when this is compiled, which makes it twice as fast
_SMALL = 1e-5  # that is added before a logarithm is taken


class Model(NamedTuple):
    """A classifier as `languages` takes it."""

    rows: NDArray[np.float32]
    """Vectors of words, then of pieces, shape (words + pieces, DIMENSION)."""
    text: Bytes
    """The words, one after the other."""
    ends: Places
    """Where each begins in `text`, and where the last one ends, shape (words + 1,)."""
    slots: NDArray[np.int32]
    """A word's number by its hash, or the next free slot; -1 where there is none. The size is a power of two."""
    pieces: NDArray[np.uint16]
    """By the hash of a piece its row among those of pieces, or NO_PIECE, shape (PIECES,)."""
    kept: Bytes
    """A bit for each hash of a piece that has a row: small enough to stay near the processor."""
    leaves: NDArray[np.float32]
    """Of each inner node of the tree, shape (labels - 1, DIMENSION)."""
    left: NDArray[np.int32]
    """The child of each inner node: a label, or, from their number on, an inner node."""
    right: NDArray[np.int32]
    mark: Bytes
    """What a label begins with in training data: a word that does so counts for nothing."""
    shortest: int
    """Characters of a piece, with the signs around a word."""
    longest: int


@kernel
def hashed(data: Bytes, start: int, end: int) -> np.uint32:
    """FNV-1a in 32 bits, with bytes that have a sign, as fastText takes them."""
    value = _BASIS
    for at in range(start, end):
        value = _mixed(value, data[at])
    return value


@kernel
def _mixed(value: np.uint32, byte: int) -> np.uint32:
    """Numba computes with 64 bits unless it is told otherwise."""
    return np.uint32(np.uint32(value ^ np.uint32(np.int32(np.int8(byte)))) * _PRIME)


@kernel
def languages(
    data: Bytes, offsets: Places, cuts: Places, sure: float, model: Model, labels: NDArray[np.int32], scores: NDArray[np.float32]
) -> None:  # fmt: skip
    """The most probable label of each text, and its probability: of its first part where that is sure, else of the whole.

    Args:
        data, offsets: UTF-8 of the texts (`Buffers`); all ASCII white space separates words.
        cuts: bytes of each first part, shape (texts,).
        sure: probability from which no more than the first part is looked at.
        labels, scores: shape (texts,), filled.
    """
    total, part = np.empty(DIMENSION, np.float32), np.empty(DIMENSION, np.float32)
    word = np.empty(np.diff(offsets).max() + 2, np.uint8)
    for each in range(len(offsets) - 1):
        cut, end = offsets[each] + cuts[each], offsets[each + 1]
        total[:] = np.float32(0)
        count, at = _add_words(model, data, offsets[each], cut, end, total, word)
        part[:] = total
        more = _add_word(model, _bracketed(data[at:cut], word), part) if at < cut else 0  # the word that is cut
        labels[each], scores[each] = _most_probable(model, part, count + max(more, 0))
        if scores[each] < sure and cut < end and at < end:
            more, at = _add_words(model, data, at, end, end, total, word)
            labels[each], scores[each] = _most_probable(model, total, count + more)


@kernel
def _add_words(
    model: Model, data: Bytes, at: int, cut: int, end: int, total: NDArray[np.float32], word: Bytes
) -> tuple[int, int]:  # fmt: skip
    """Add the words of a text from a place on that are over by `cut`; returns how many vectors these have, and where the next
    one starts, which is the end where no more words count."""
    count = 0
    while True:
        while at < end and _is_blank(data[at]):
            at += 1
        stop = at
        while stop < end and not _is_blank(data[stop]):
            stop += 1
        if stop > cut or stop == at:
            return count, at
        found = _add_word(model, _bracketed(data[at:stop], word), total)
        if found < 0:
            return count, end
        count, at = count + found, stop


@kernel
def _is_blank(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31 or byte == 0


@kernel
def _bracketed(word: Bytes, out: Bytes) -> Bytes:
    """The word between < and >, in `out`."""
    size = len(word) + 2
    out[0], out[1 : size - 1], out[size - 1] = _BEGIN, word, _END
    return out[:size]


@kernel
def _add_word(model: Model, word: Bytes, total: NDArray[np.float32]) -> int:
    """Add the vectors of a bracketed word and of its pieces; returns how many there were, or -1 for the word that ends a text."""
    number = _number_of(model, word[1:-1])
    if number == ENDING:
        return -1
    if number >= 0:
        _add(total, model.rows[number])
    elif _is_label(model.mark, word[1:-1]):
        return 0
    pieces = _add_pieces_of_ascii(model, word, total) if is_ascii(word) else _add_pieces(model, word, total)
    return pieces + (number >= 0)


@kernel
def _add_pieces_of_ascii(model: Model, word: Bytes, total: NDArray[np.float32]) -> int:
    """What `_add_pieces` does where characters are bytes."""
    # Out of the record, which would be copied in the inner loop.
    kept, pieces, rows, words = model.kept, model.pieces, model.rows, len(model.ends) - 1
    shortest, longest, count = model.shortest, model.longest, 0
    for first in range(len(word)):
        value = _mixed(_BASIS, word[first])
        for at in range(first + 1, min(first + longest, len(word))):
            value = _mixed(value, word[at])
            if at - first + 1 >= shortest:
                place = np.uint32(value) % np.uint32(PIECES)
                if kept[place >> 3] >> (place & 7) & 1:
                    _add(total, rows[words + pieces[place]])
                    count += 1
    return count


@kernel
def _add_pieces(model: Model, word: Bytes, total: NDArray[np.float32]) -> int:
    """Add the vectors of all pieces of a bracketed word; returns how many there were."""
    kept, pieces, rows, words = model.kept, model.pieces, model.rows, len(model.ends) - 1
    shortest, longest, count = model.shortest, model.longest, 0
    for first in range(len(word)):
        if word[first] & 0xC0 == 0x80:  # not the first byte of a character
            continue
        at, size, value = first, 1, _BASIS
        while at < len(word) and size <= longest:
            value = _mixed(value, word[at])
            at += 1
            while at < len(word) and word[at] & 0xC0 == 0x80:
                value = _mixed(value, word[at])
                at += 1
            if size >= shortest:
                place = np.uint32(value) % np.uint32(PIECES)
                if kept[place >> 3] >> (place & 7) & 1:
                    _add(total, rows[words + pieces[place]])
                    count += 1
            size += 1
    return count


@kernel
def _number_of(model: Model, word: Bytes) -> int:
    """The number of a word that the model knows, or -1."""
    at = np.int64(hashed(word, 0, len(word))) & (len(model.slots) - 1)
    while model.slots[at] >= 0:
        number = model.slots[at]
        known = model.text[model.ends[number] : model.ends[number + 1]]
        if len(known) == len(word) and np.all(known == word):
            return number
        at = (at + 1) & (len(model.slots) - 1)
    return -1


@kernel
def _is_label(mark: Bytes, word: Bytes) -> bool:
    return len(word) >= len(mark) and np.all(word[: len(mark)] == mark)


@kernel
def _add(total: NDArray[np.float32], row: NDArray[np.float32]) -> None:
    for at in range(DIMENSION):
        total[at] += row[at]


@kernel
def _most_probable(model: Model, total: NDArray[np.float32], count: int) -> tuple[int, float]:
    """The leaf with the greatest product of the probabilities of its branches, and that product.

    Args:
        total: sum of so many vectors, without that of the word that ends a text; changed.
    """
    _add(total, model.rows[ENDING])
    total *= np.float32(1.0 / (count + 1))
    labels = len(model.left) + 1
    nodes, marks = np.empty(labels, np.int32), np.empty(labels, np.float32)
    nodes[0], marks[0], waiting = 2 * labels - 2, np.float32(0), 1
    best, found, least = np.float32(-np.inf), -1, np.float32(math.log(_SMALL))
    while waiting:
        waiting -= 1
        node, score = nodes[waiting], marks[waiting]
        if score < least or score < best:
            continue
        if node < labels:
            best, found = score, node
            continue
        sum_ = np.float32(0)
        for at in range(DIMENSION):
            sum_ += model.leaves[node - labels, at] * total[at]
        right = np.float32(np.float64(1.0) / np.float64(np.float32(1) + np.float32(math.exp(-sum_))))
        left = np.float32(1.0 - np.float64(right))
        # The right one waits below: the left one comes first.
        nodes[waiting], marks[waiting] = model.right[node - labels], score + np.float32(math.log(np.float64(right) + _SMALL))
        nodes[waiting + 1], marks[waiting + 1] = (
            model.left[node - labels],
            score + np.float32(math.log(np.float64(left) + _SMALL)),
        )
        waiting += 2
    return found, np.float32(math.exp(best))


@kernel
def _log(probability: np.float32) -> np.float32:
    return np.float32(math.log(np.float64(probability) + _SMALL))
