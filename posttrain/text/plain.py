"""The MinHash bands of a text in plain Python: what the kernels compute, a hundred times slower.

Used where numba cannot compile, and by the tests, which compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.minhash import SHINGLE, permutations

_WORD = 2**64 - 1
_BASE, _MIXER, _FNV_BASIS, _FNV_PRIME = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 14695981039346656037, 1099511628211


def bands(folded: bytes, count: int, rows: int) -> NDArray[np.uint64]:
    """The band hashes of a folded text, shape (count,); zeros for an empty one."""
    factors, offsets = permutations(count * rows)
    found = shingles(folded)
    if not len(found):
        return np.zeros(count, np.uint64)
    short = ((found >> np.uint64(32)) ^ (found & np.uint64(2**32 - 1))).astype(np.uint32)
    values = factors[:, None] * short + offsets[:, None]
    values = (values ^ (values >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    signature = values.min(axis=1).reshape(count, rows).tolist()
    return np.array([_band(number, signature[number - 1]) for number in range(1, count + 1)], np.uint64)


def _band(number: int, rows: Sequence[int]) -> int:
    value = number
    for row in rows:
        value = (value ^ row) * _BASE & _WORD
        value ^= value >> 29
    return value


def shingles(folded: bytes) -> NDArray[np.uint64]:
    """64-bit hashes of the word 5-grams of a folded text, in its order."""
    words = [_fnv(word) for word in folded.split(b" ")] if folded else []
    width = min(SHINGLE, len(words))
    runs = [words[at : at + width] for at in range(len(words) - width + 1)] if words else []
    return np.array([_run(run) for run in runs], np.uint64)


def _fnv(word: bytes) -> int:
    value = _FNV_BASIS
    for byte in word:
        value = (value ^ byte) * _FNV_PRIME & _WORD
    return value


def _run(words: Sequence[int]) -> int:
    value = 0
    for word in words:
        value = value * _BASE & _WORD ^ word
        value ^= value >> 31
    return value * _MIXER & _WORD
