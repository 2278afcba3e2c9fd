"""The words of folded texts as numbers, and runs of them; what is written without spaces counts character by character.

A word is a run of letters, digits and `_`, so that punctuation makes no difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.characters import WORD
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import ASCII, BASE, MIXER, Bytes, Hashes, Places, code_at, hashed, longest

_FNV_BASIS, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


@kernel
def words(data: Bytes, start: int, end: int, flags: Bytes, out: Hashes) -> int:
    """64-bit hashes of the words of a folded text; returns how many.

    Args:
        flags: of `characters.flags`.
        out: room for as many words as the text has bytes.
    """
    count, value, at, inside = 0, _FNV_BASIS, start, False
    while at < end:
        if data[at] < ASCII:  # one byte, of which no other has to be known
            if flags[data[at]] & WORD:
                value = (value ^ np.uint64(data[at])) * _FNV_PRIME
                inside = True
            elif inside:
                out[count] = value
                count, value, inside = count + 1, _FNV_BASIS, False
            at += 1
        else:
            code, behind = code_at(data, at)
            alone = _alone(code)
            if inside and (alone or not flags[code] & WORD):
                out[count] = value
                count, value, inside = count + 1, _FNV_BASIS, False
            if flags[code] & WORD:
                for place in range(at, behind):
                    value = (value ^ np.uint64(data[place])) * _FNV_PRIME
                inside = True
                if alone:
                    out[count] = value
                    count, value, inside = count + 1, _FNV_BASIS, False
            at = behind
    if inside:
        out[count] = value
        count += 1
    return count


@kernel
def _alone(code: int) -> bool:
    """Thai and its neighbours, Khmer, Chinese and Japanese put no spaces between words."""
    if code < 0xE00:
        return False
    return code < 0x10A0 or 0x1780 <= code < 0x1800 or 0x2E80 <= code < 0xA000 or 0xF900 <= code < 0xFB00 or code >= 0x20000


@kernel
def beginnings(found: Hashes, count: int, prefix: Hashes) -> None:
    """Hashes of the first 0, 1, ... count words, of which `hashed` makes those of runs; `prefix` has room for count + 1."""
    prefix[0] = np.uint64(0)
    for at in range(count):
        prefix[at + 1] = prefix[at] * BASE + ((found[at] ^ (found[at] >> np.uint64(29))) * MIXER | np.uint64(1))


@kernel
def runs(prefix: Hashes, powers: Hashes, count: int, length: int, out: Hashes) -> int:
    """Hashes of all runs of `length` words among `count`; returns how many there are."""
    for at in range(count - length + 1):
        out[at] = hashed(prefix, powers, at, at + length)
    return max(count - length + 1, 0)


@kernel
def _bits(buckets: Places) -> int:
    """How many high bits of a hash name its bucket."""
    bits = 0
    while (len(buckets) - 1) >> bits > 1:
        bits += 1
    return bits


@kernel
def _place_of(known: Hashes, buckets: Places, bits: int, value: int) -> int:
    """Where a hash stands among sorted ones, or -1.

    Args:
        buckets: by the high bits of hashes, where those with these bits start in `known`, and where the last ones end.
        bits: how many these are.
    """
    bucket = np.int64(np.uint64(value) >> np.uint64(64 - bits)) if bits else 0
    for at in range(buckets[bucket], buckets[bucket + 1]):
        if known[at] == value:
            return at
    return -1


@kernel
def matches(
    data: Bytes, starts: Places, ends: Places, flags: Bytes, powers: Hashes, known: Hashes, buckets: Places, lengths: Places,
    counts: Places, first: Places, covered: NDArray[np.float64],
) -> None:  # fmt: skip
    """Of each folded text the runs of words that are known: how many, the first one, and the share of words in any.

    Args:
        known, buckets: as in `_place_of`.
        lengths: of runs, in words.
        counts, first, covered: shape (documents,), filled; `first` is a place in `known` or -1.
    """
    size, bits = longest(starts, ends), _bits(buckets)
    found, prefix, inside = np.empty(size + 1, np.uint64), np.empty(size + 2, np.uint64), np.empty(size + 1, np.uint8)
    for each in range(len(starts)):
        count = words(data, starts[each], ends[each], flags, found)
        beginnings(found, count, prefix)
        inside[:count] = 0
        counts[each], first[each] = 0, -1
        for length in lengths:
            for at in range(count - length + 1):
                place = _place_of(known, buckets, bits, hashed(prefix, powers, at, at + length))
                if place >= 0:
                    counts[each] += 1
                    inside[at : at + length] = 1
                    first[each] = place if first[each] < 0 else first[each]
        covered[each] = inside[:count].sum() / max(count, 1) if counts[each] else 0.0
