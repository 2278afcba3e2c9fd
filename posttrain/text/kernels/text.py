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
NEWLINE, ASCII = 10, 128
_ONE, _SQUARE, _CUBE, _FOURTH = (np.uint64(int(BASE) ** power % 2**64) for power in (0, 2, 3, 4))


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
    at, count, value = start, 0, np.uint64(0)
    prefix[0] = value
    while at < end:
        if at + 4 <= end and (data[at] | data[at + 1] | data[at + 2] | data[at + 3]) < ASCII:
            # Hashes wait for the one before them: here once for four characters.
            one, two, three, four = data[at], data[at + 1], data[at + 2], data[at + 3]
            codes[count], codes[count + 1], codes[count + 2], codes[count + 3] = one, two, three, four
            kinds[count], kinds[count + 1] = flags[one], flags[two]
            kinds[count + 2], kinds[count + 3] = flags[three], flags[four]
            first = np.uint64(one) + _ONE
            second = first * BASE + (np.uint64(two) + _ONE)
            third = second * BASE + (np.uint64(three) + _ONE)
            prefix[count + 1], prefix[count + 2] = value * BASE + first, value * _SQUARE + second
            prefix[count + 3] = value * _CUBE + third
            value = value * _FOURTH + (third * BASE + (np.uint64(four) + _ONE))
            prefix[count + 4] = value
            at, count = at + 4, count + 4
        else:  # and no `continue`, which made all of it half as fast
            code, at = code_at(data, at)
            codes[count], kinds[count] = code, flags[code]
            value = value * BASE + np.uint64(code + 1)
            count += 1
            prefix[count] = value
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
    edges, found = np.empty(count + 1, np.int64), 0
    changes = _changes(kinds[:count], np.uint8(mask), np.uint8(wanted))
    for at in range(count):
        edges[found] = at
        found += changes[at]
    edges[found] = count
    for each in range((found + 1) // 2):
        starts[each], ends[each] = edges[2 * each], edges[2 * each + 1]
    return (found + 1) // 2


@kernel
def _changes(kinds: Bytes, mask: int, wanted: int) -> Bytes:
    """1 where a character's flags are `wanted` and the one's before are not, or the other way round; many at a time."""
    found = np.empty(len(kinds), np.uint8)
    if len(kinds):
        found[0] = np.uint8((kinds[0] & mask) == wanted)
    before, now, changes = kinds[:-1], kinds[1:], found[1:]
    for at in range(len(now)):
        changes[at] = np.uint8(np.uint8((before[at] & mask) == wanted) ^ np.uint8((now[at] & mask) == wanted))
    return found


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
