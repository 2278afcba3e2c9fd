"""MinHash of word 5-grams (Broder 1997): documents that share a band are candidates, of which the exact Jaccard index decides.

A document of fewer than five words is one shingle of them all. Texts are folded (`folding`), so a word ends at a blank.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import BASE, MIXER, Bytes, Hashes, Places

Permutations = NDArray[np.uint32]
SHINGLE = 5  # words
BLANK = 32
_FNV_BASIS, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
_SCATTER = np.uint32(0x2C1B3C6D)


@cache
def permutations(count: int) -> tuple[Permutations, Permutations]:
    """Odd factors and offsets of the hash functions, always the same, each of shape (count,)."""
    generator = np.random.default_rng(1)
    factors, offsets = generator.integers(0, 2**32, (2, 4096)).astype(np.uint32)
    return factors[:count] | np.uint32(1), offsets[:count]


@kernel
def shingles(data: Bytes, start: int, end: int) -> Hashes:
    """64-bit hashes of the 5-grams of a folded text, in its order; empty for an empty text."""
    words, count, at = np.empty((end - start) // 2 + 1, np.uint64), 0, start
    while at < end:
        value = _FNV_BASIS
        while at < end and data[at] != BLANK:
            value = (value ^ np.uint64(data[at])) * _FNV_PRIME
            at += 1
        words[count] = value
        count, at = count + 1, at + 1
    width = min(SHINGLE, count)
    found = max(count - width + 1, 0) if count else 0
    for first in range(found):
        value = np.uint64(0)
        for each in range(first, first + width):
            value = (value * BASE) ^ words[each]
            value ^= value >> np.uint64(31)
        words[first] = value * MIXER
    return words[:found]


@kernel
def all_shingles(data: Bytes, starts: Places, ends: Places, lengths: Places, out: Hashes) -> int:
    """`shingles` of each text, one after the other in `out`; returns how many. `lengths` is filled with those of each."""
    used = 0
    for each in range(len(starts)):
        found = shingles(data, starts[each], ends[each])
        lengths[each] = len(found)
        out[used : used + len(found)] = found
        used += len(found)
    return used


@kernel
def bands(data: Bytes, starts: Places, ends: Places, factors: Permutations, offsets: Permutations, out: Hashes) -> None:
    """One hash for each band of rows of the signature of each folded text; an empty text has zeros.

    Args:
        factors, offsets: of `permutations`, shape (bands * rows,).
        out: shape (documents, bands), filled.
    """
    signature, rows = np.empty(len(factors), np.uint32), len(factors) // out.shape[1]
    for each in range(len(starts)):
        found = shingles(data, starts[each], ends[each])
        signature[:] = np.uint32(0xFFFFFFFF)
        for at in range(len(found)):
            short = np.uint32(found[at] >> np.uint64(32)) ^ np.uint32(found[at])
            _minimum(signature, short, factors, offsets)
        for band in range(out.shape[1]):
            value = np.uint64(band + 1)
            for row in range(band * rows, band * rows + rows):
                value = (value ^ np.uint64(signature[row])) * BASE
                value ^= value >> np.uint64(29)
            out[each, band] = value if len(found) else np.uint64(0)


@kernel
def _minimum(signature: Permutations, short: np.uint32, factors: Permutations, offsets: Permutations) -> None:
    """Lower each row of the signature to this shingle's hash; one vector instruction does several rows."""
    for row in range(len(signature)):
        value = np.uint32(factors[row] * short + offsets[row])
        value ^= value >> np.uint32(15)
        value = np.uint32(value * _SCATTER)
        signature[row] = min(signature[row], value)


@kernel
def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard index of two sets of shingles, each sorted and without repeats; 0 where both are empty."""
    first, second, shared = 0, 0, 0
    while first < len(one) and second < len(other):
        if one[first] == other[second]:
            shared, first, second = shared + 1, first + 1, second + 1
        elif one[first] < other[second]:
            first += 1
        else:
            second += 1
    return shared / max(len(one) + len(other) - shared, 1)
