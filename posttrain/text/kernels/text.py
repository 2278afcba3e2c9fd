"""Where a document has characters, words and lines. Spans are positions of characters: start, and end behind the last one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.characters import SPACE
from posttrain.text.kernels.compiling import kernel

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int32]
Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]

BASE = np.uint64(0x9E3779B97F4A7C15)
MIXER = np.uint64(0xBF58476D1CE4E5B9)
NEWLINE = 10


@kernel
def code_at(data: Bytes, at: int) -> tuple[int, int]:
    """Code point that starts at a byte of valid UTF-8, and the position behind it."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    if byte < 0xE0:
        return (byte & 31) << 6 | np.int64(data[at + 1] & 63), at + 2
    if byte < 0xF0:
        return (byte & 15) << 12 | np.int64(data[at + 1] & 63) << 6 | np.int64(data[at + 2] & 63), at + 3
    high = (byte & 7) << 18 | np.int64(data[at + 1] & 63) << 12
    return high | np.int64(data[at + 2] & 63) << 6 | np.int64(data[at + 3] & 63), at + 4


@kernel
def longest(starts: Places, ends: Places) -> int:
    """Bytes of the longest text: room that is enough for any of them."""
    size = np.int64(0)
    for each in range(len(starts)):
        size = max(size, ends[each] - starts[each])
    return size


@kernel
def decode(data: Bytes, start: int, end: int, flags: Bytes, codes: Codes, kinds: Bytes, prefix: Hashes) -> int:
    """Code points and flags of the bytes from `start` to `end`, and polynomial hashes of all beginnings; returns how many.

    `prefix[i]` is the hash of the first i characters, modulo 2^64.
    """
    at, count = start, 0
    prefix[0] = np.uint64(0)
    while at < end:
        code, at = code_at(data, at)
        codes[count] = code
        kinds[count] = flags[code]
        prefix[count + 1] = prefix[count] * BASE + np.uint64(code + 1)
        count += 1
    return count


@kernel
def hashed(prefix: Hashes, powers: Hashes, start: int, end: int) -> int:
    """64-bit hash of the characters of a span; `powers[i]` is BASE to the i, modulo 2^64."""
    value = prefix[end] - prefix[start] * powers[end - start]
    value = (value ^ (value >> np.uint64(31))) * MIXER
    return value ^ (value >> np.uint64(29))


@kernel
def powers_of_base(count: int) -> Hashes:
    """BASE to the 0, 1, … count - 1, modulo 2^64."""
    powers = np.empty(count, np.uint64)
    power = np.uint64(1)
    for at in range(count):
        powers[at] = power
        power = power * BASE
    return powers


@kernel
def spans(kinds: Bytes, count: int, mask: int, wanted: int, starts: Places, ends: Places) -> int:
    """Longest runs of characters whose flags, masked, are `wanted`; without branches, since words end unforeseeably.

    Args:
        starts, ends: shape (count // 2 + 2,) or more, filled as far as the number that is returned.
    """
    opened, closed, before = 0, 0, 0
    for at in range(count):
        now = np.int64((kinds[at] & mask) == wanted)
        starts[opened], ends[closed] = at, at
        opened += now & ~before
        closed += before & ~now
        before = now
    ends[closed] = count
    return opened


@kernel
def lines(codes: Codes, kinds: Bytes, count: int, starts: Places, ends: Places, after_blank: Bytes) -> int:
    """Spans of the lines without white space at their ends, blank ones left out, and whether a blank one stands before each."""
    breaks = 0
    for at in range(count):  # without branches, as in `spans`
        ends[breaks] = at
        breaks += codes[at] == NEWLINE
    ends[breaks] = count
    found, blank, first = 0, 1, 0
    for each in range(breaks + 1):
        stop = last = ends[each]  # `found` is not beyond `each`, so this is read before it is overwritten
        while first < last and kinds[first] & SPACE:
            first += 1
        while last > first and kinds[last - 1] & SPACE:
            last -= 1
        if first == last:
            blank = 1
        else:
            starts[found], ends[found], after_blank[found] = first, last, blank
            found, blank = found + 1, 0
        first = stop + 1
    return found


@kernel
def paragraphs(starts: Places, ends: Places, after_blank: Bytes, count: int, from_: Places, to: Places) -> int:
    """Spans of the paragraphs, from the first character of their first line to the last of their last, out of the lines'."""
    found = 0
    for line in range(count):
        if after_blank[line]:
            from_[found] = starts[line]
            found += 1
        to[found - 1] = ends[line]
    return found
