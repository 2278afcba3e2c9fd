"""Dialogues as text, in which turns open with two line breaks and `Human:` or `Assistant:`: where their turns begin and end."""

from __future__ import annotations

from typing import Final

import numpy as np

from posttrain.text.kernels.characters import SPACE
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import ASCII, NEWLINE, Bytes, Places, code_at

HUMAN, ASSISTANT = b"\n\nHuman:", b"\n\nAssistant:"
FEWEST: Final = len(HUMAN)  # bytes of a turn
_HUMAN, _ASSISTANT = np.frombuffer(HUMAN, np.uint8), np.frombuffer(ASSISTANT, np.uint8)
_RETURN, _SEPARATORS = 13, (0x1C, 0x1F)  # `str.strip` takes these for white space too


@kernel
def pairs(
    good: Bytes, good_ends: Places, bad: Bytes, bad_ends: Places, flags: Bytes, taken: Bytes, counts: Places, starts: Places,
    ends: Places, users: Bytes, said: Places,
) -> int:  # fmt: skip
    """Rows of two dialogues that differ in what the assistant says last; returns how many turns the prompts have together.

    Args:
        good, bad: UTF-8 of the two sides.
        good_ends, bad_ends: where each text starts in it and the last one ends, shape (rows + 1,).
        flags: of `characters.flags`.
        taken: 1 for the rows that are such dialogues, shape (rows,), filled.
        counts: turns of each prompt, shape (rows,), filled.
        starts, ends, users: place of each turn of a prompt in `good` and whether it is the user's, filled; room for one turn for
            each `FEWEST` bytes.
        said: start and end of the answer in `good`, and in `bad`, shape (rows, 4), filled.
    """
    used = 0
    for row in range(len(taken)):
        start, end, other, other_end = good_ends[row], good_ends[row + 1], bad_ends[row], bad_ends[row + 1]
        taken[row], counts[row] = 0, 0
        if end - start < FEWEST or not _is(good, start, end, _HUMAN):
            continue
        found, last = _turns(good, start, end, starts[used:], ends[used:], users[used:])
        if found < 2 or users[used + found - 1]:
            continue
        behind = last + len(_ASSISTANT)
        if not _same(good[start:behind], bad[other:other_end]) or _turn_or_return(bad, other + behind - start, other_end):
            continue
        for at in range(used, used + found - 1):
            starts[at], ends[at] = _stripped(good, starts[at], ends[at], flags)
        said[row, 0], said[row, 1] = _stripped(good, behind, end, flags)
        said[row, 2], said[row, 3] = _stripped(bad, other + behind - start, other_end, flags)
        taken[row], counts[row] = 1, found - 1
        used += found - 1
    return used


@kernel
def _turns(data: Bytes, start: int, end: int, starts: Places, ends: Places, users: Bytes) -> tuple[int, int]:
    """How many turns a text has, and where the last of them opens; 0 where it has a carriage return."""
    found, last, at = 0, start, start
    while at < end:
        if data[at] == _RETURN:
            return 0, start
        if data[at] == NEWLINE:
            human = _is(data, at, end, _HUMAN)
            if human or _is(data, at, end, _ASSISTANT):
                if found:
                    ends[found - 1] = at
                last = at
                at += len(_HUMAN) if human else len(_ASSISTANT)
                starts[found], users[found] = at, np.uint8(human)
                found += 1
                continue
        at += 1
    ends[found - 1] = end
    return found, last


@kernel
def _turn_or_return(data: Bytes, start: int, end: int) -> bool:
    """Whether there is a further turn, or a carriage return."""
    for at in range(start, end):
        if data[at] == _RETURN:
            return True
        if data[at] == NEWLINE and (_is(data, at, end, _HUMAN) or _is(data, at, end, _ASSISTANT)):
            return True
    return False


@kernel
def _is(data: Bytes, start: int, end: int, word: Bytes) -> bool:
    """Whether a word stands here."""
    return end - start >= len(word) and _same(word, data[start:end])


@kernel
def _same(one: Bytes, other: Bytes) -> bool:
    """Whether the other begins with the one."""
    if len(other) < len(one):
        return False
    for at in range(len(one)):  # noqa: SIM110 - a generator is not compiled
        if one[at] != other[at]:
            return False
    return True


@kernel
def _stripped(data: Bytes, start: int, end: int, flags: Bytes) -> tuple[int, int]:
    """A span without white space at its ends, as `str.strip` cuts it."""
    while start < end:
        code, behind = code_at(data, start)
        if not (flags[code] & SPACE or _SEPARATORS[0] <= code <= _SEPARATORS[1]):
            break
        start = behind
    while start < end:
        last = end - 1
        while data[last] >= ASCII and data[last] & 0xC0 == 0x80:
            last -= 1
        code, _ = code_at(data, last)
        if not (flags[code] & SPACE or _SEPARATORS[0] <= code <= _SEPARATORS[1]):
            break
        end = last
    return start, end


@kernel
def cut(data: Bytes, starts: Places, ends: Places, out: Bytes) -> None:
    """Copy spans, one behind the other."""
    used = 0
    for each in range(len(starts)):
        for at in range(starts[each], ends[each]):
            out[used] = data[at]
            used += 1
