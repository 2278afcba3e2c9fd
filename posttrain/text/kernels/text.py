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
_EIGHT = 8  # bytes of a number


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
def decode(text: Bytes, flags: Bytes, codes: Codes, kinds: Bytes, places: Places) -> int:
    """Code points and flags of the characters of a text, and where each starts among its bytes; returns how many.

    Args:
        places: filled with one more, the end of the last character.
    """
    at, count = 0, 0
    while at < len(text):
        if at + 4 <= len(text) and (text[at] | text[at + 1] | text[at + 2] | text[at + 3]) < ASCII:
            for each in range(4):
                byte = text[at + each]
                codes[count + each], kinds[count + each], places[count + each] = byte, flags[byte], at + each
            at, count = at + 4, count + 4
        else:  # and no `continue`, which made all of it half as fast
            places[count] = at
            code, at = code_at(text, at)
            codes[count], kinds[count] = code, flags[code]
            count += 1
    places[count] = len(text)
    return count


@kernel
def hash_spans(text: Bytes, starts: Places, ends: Places, found: int, out: Hashes) -> None:
    """64-bit hashes of some spans of bytes, none of them empty: of their number, each eight of them, and the last eight.

    How long a word is cannot be foreseen, so all of up to sixteen bytes go one way; a function for them would not be inlined.
    """
    for at in range(found):
        start, end = starts[at], ends[at]
        length = end - start
        if length <= 2 * _EIGHT and start + _EIGHT <= len(text) and end >= _EIGHT:
            beside = np.uint64(8 * (_EIGHT - min(length, _EIGHT)))  # bits that are not of the word, and shifted out
            value = mixed(np.uint64(length) * BASE ^ _eight(text, start) << beside)
            out[at] = mixed(value ^ _eight(text, end - _EIGHT) >> beside)
        else:
            out[at] = _hash_otherwise(text, start, end)


@kernel
def _hash_otherwise(text: Bytes, start: int, end: int) -> int:
    """The same of one span that is longer, or so close to an end of the text that eight bytes are too many to read."""
    length = end - start
    value, short = np.uint64(length) * BASE, min(length, _EIGHT)
    if length > 2 * _EIGHT:
        while start + _EIGHT < end:
            value, start = mixed(value ^ _eight(text, start)), start + _EIGHT
        return mixed(value ^ _eight(text, end - _EIGHT))
    first = last = np.uint64(0)
    for at in range(short):
        first |= np.uint64(text[start + at]) << np.uint64(8 * (_EIGHT - short + at))
        last |= np.uint64(text[end - short + at]) << np.uint64(8 * at)
    return mixed(mixed(value ^ first) ^ last)


@kernel
def mixed(value: int) -> int:
    """A number of which each bit depends on all bits of another one, a different one for each."""
    value = (value ^ (value >> np.uint64(31))) * MIXER
    return value ^ (value >> np.uint64(29))


@kernel
def _eight(text: Bytes, start: int) -> int:
    """The number whose eight bytes, the lowest first, stand at a place."""
    some, value = text[start : start + _EIGHT], np.uint64(0)
    for at in range(_EIGHT):
        value |= np.uint64(some[at]) << np.uint64(8 * at)
    return value


@kernel
def hashed(prefix: Hashes, powers: Hashes, start: int, end: int) -> int:
    """64-bit hash of the characters of a span; `powers[i]` is BASE to the i, modulo 2^64."""
    return mixed(prefix[end] - prefix[start] * powers[end - start])


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
