"""The vectors of a word in fastText's classifier (Joulin et al. 2016, arXiv 1607.01759): its own, where it is known, and those of
its pieces. The dictionary is pruned (arXiv 1612.03651): a piece whose hash was not kept has no vector.
"""

from __future__ import annotations

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
def bracketed(data: Bytes, start: int, stop: int, out: Bytes) -> Bytes:
    """A word between < and >, in `out`."""
    size = stop - start + 2
    out[0], out[size - 1] = _BEGIN, _END
    for at in range(start, stop):
        out[at - start + 1] = data[at]
    return out[:size]


@kernel
def vectors_of(model: Model, word: Bytes, out: NDArray[np.int32]) -> int:
    """The vectors of a bracketed word and of its pieces, in `out`; returns how many, or -1 for the word that ends a text."""
    number = _number_of(model, word)
    if number == ENDING:
        return -1
    count = 0
    if number >= 0:
        out[0], count = number, 1
    elif _begins(word[1:-1], model.mark):  # a label
        return 0
    before = count
    count += _pieces_of_ascii(model, word, out[before:]) if is_ascii(word) else _pieces(model, word, out[before:])
    pieces, words = model.pieces, len(model.ends) - 1  # out of the record, which would be copied in the loop
    for each in range(before, count):
        out[each] = words + pieces[out[each]]
    return count


@kernel
def _pieces_of_ascii(model: Model, word: Bytes, places: NDArray[np.int32]) -> int:
    """What `_pieces` does where characters are bytes; without branches, since which pieces have a vector cannot be foreseen."""
    kept, shortest, longest, count = model.kept, model.shortest, model.longest, 0
    for first in range(len(word)):
        value = _BASIS
        for at in range(first, min(first + longest, len(word))):
            value = _mixed(value, word[at])
            place = np.uint32(value) % np.uint32(PIECES)
            places[count] = place
            count += np.int64(kept[place >> 3] >> (place & 7) & 1) & np.int64(at - first + 1 >= shortest)
    return count


@kernel
def _pieces(model: Model, word: Bytes, places: NDArray[np.int32]) -> int:
    """The hashes of all pieces of a bracketed word that have a vector, in `places`; returns how many there are."""
    kept, shortest, longest, count = model.kept, model.shortest, model.longest, 0
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
            place = np.uint32(value) % np.uint32(PIECES)
            if size >= shortest and kept[place >> 3] >> (place & 7) & 1:
                places[count] = place
                count += 1
            size += 1
    return count


@kernel
def _number_of(model: Model, word: Bytes) -> int:
    """The number of a bracketed word that the model knows, or -1."""
    slots, text, ends, size = model.slots, model.text, model.ends, len(word) - 2
    at = np.int64(hashed(word, 1, size + 1)) & (len(slots) - 1)
    while slots[at] >= 0:
        number = slots[at]
        if ends[number + 1] - ends[number] == size and _begins(word[1:-1], text[ends[number] : ends[number + 1]]):
            return number
        at = (at + 1) & (len(slots) - 1)
    return -1


@kernel
def _begins(word: Bytes, mark: Bytes) -> bool:
    """Whether a word begins with a mark."""
    if len(word) < len(mark):
        return False
    for at in range(len(mark)):  # noqa: SIM110 - a generator is not compiled
        if word[at] != mark[at]:
            return False
    return True
