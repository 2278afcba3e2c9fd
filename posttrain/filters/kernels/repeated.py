"""Lines of documents by their hashes, and documents without some of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.kernels.lines import append
from posttrain.text.kernels.characters import SPACE
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import BASE, MIXER, NEWLINE, Bytes, Hashes, Places, code_at

_FNV_BASIS, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
_CONTINUES = 0x80  # of the first two bits of a byte: one that is not the first of its character


@kernel
def hash_lines(data: Bytes, offsets: Places, flags: Bytes, hashes: Hashes, counts: Places, prints: Hashes) -> int:
    """Hash the lines of documents without white space at their ends, blank ones left out.

    Args:
        data, offsets, flags: as in `document.measure`.
        hashes: room for all lines, filled in their order.
        counts: lines of each document, shape (documents,), filled.
        prints: a hash of all lines of each document, likewise.

    Returns:
        How many lines there are.
    """
    found = 0
    for each in range(len(offsets) - 1):
        at, end, before, value = offsets[each], offsets[each + 1], found, np.uint64(0)
        while at < end:
            stop = _line_end(data, at, end)
            first, last = _stripped(data, at, stop, flags)
            if first < last:
                hashes[found] = _hash(data, first, last)
                value = (value ^ hashes[found]) * BASE
                found += 1
            at = stop + 1
        counts[each], prints[each] = found - before, value ^ (value >> np.uint64(31))
    return found


@kernel
def drop_marked(data: Bytes, offsets: Places, flags: Bytes, marked: NDArray[np.bool_], out: Bytes, ends: Places) -> int:
    """Write the documents without the lines that are marked; blank lines stay, as in `lines.drop_lines`.

    Args:
        marked: of the lines that `hash_lines` finds, in their order.
        out: room for as many bytes as the documents have.
        ends: where each document ends in `out`, shape (documents,), filled.

    Returns:
        How many bytes were written.
    """
    used, line = 0, 0
    for each in range(len(offsets) - 1):
        at, end, begin, gone = offsets[each], offsets[each + 1], used, 0
        while at <= end:
            stop = _line_end(data, at, end)
            first, last = _stripped(data, at, stop, flags)
            goes = False
            if first < last:
                goes = marked[line]
                line += 1
            if goes:
                gone += 1
            else:
                used = append(data, at, stop, out, used, begin)
            at = stop + 1
        if gone == 0:
            used = append(data, offsets[each], end, out, begin, begin)
        ends[each] = used
    return used


@kernel
def _line_end(data: Bytes, at: int, end: int) -> int:
    while at < end and data[at] != NEWLINE:
        at += 1
    return at


@kernel
def _stripped(data: Bytes, first: int, last: int, flags: Bytes) -> tuple[int, int]:
    """The bytes of a line from its first to its last character that is no white space; an empty span where there is none."""
    while first < last:
        code, behind = code_at(data, first)
        if not flags[code] & SPACE:
            break
        first = behind
    while first < last:
        at = last - 1
        while data[at] & 0xC0 == _CONTINUES:
            at -= 1
        code, _ = code_at(data, at)
        if not flags[code] & SPACE:
            break
        last = at
    return first, last


@kernel
def _hash(data: Bytes, first: int, last: int) -> int:
    value = _FNV_BASIS
    for at in range(first, last):
        value = (value ^ np.uint64(data[at])) * _FNV_PRIME
    value = (value ^ (value >> np.uint64(31))) * MIXER  # short lines differ in the low bits alone, and parts go by the high ones
    return value ^ (value >> np.uint64(29))
