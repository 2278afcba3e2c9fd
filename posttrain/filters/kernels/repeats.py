"""What a document says more than once: its lines, its paragraphs, and runs of two to ten words."""

from __future__ import annotations

import numpy as np

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import BASE, MIXER, Hashes, Places

LONGEST = 10  # words of a run
_CELLS = 8  # bytes for each key
TOP = 4  # up to so many words the most frequent run is measured, beyond all that repeat


@kernel
def group(keys: Hashes, count: int, ids: Places, sizes: Places) -> int:
    """Number equal keys alike, from 0 in the order in which they first occur; `sizes` says how often each does.

    Returns:
        How many different keys there are.
    """
    room = 16
    while room < 2 * count:
        room *= 2
    slots, known, groups = np.full(room, -1, np.int32), np.empty(count, np.uint64), 0
    for at in range(count):
        key = keys[at]
        place = np.int64(((key * MIXER) >> np.uint64(32)) & np.uint64(room - 1))
        while slots[place] >= 0 and known[slots[place]] != key:
            place = (place + 1) & (room - 1)
        if slots[place] < 0:
            slots[place], known[groups], sizes[groups] = groups, key, 0
            groups += 1
        ids[at] = slots[place]
        sizes[ids[at]] += 1
    return groups


@kernel
def repeated_spans(keys: Hashes, starts: Places, ends: Places, count: int) -> tuple[int, int]:
    """How many spans repeat an earlier one, and their characters."""
    ids, sizes = np.empty(count, np.int64), np.empty(count, np.int64)
    group(keys, count, ids, sizes)
    repeats, characters, new = 0, 0, 0
    for at in range(count):
        if ids[at] == new:  # numbers are given in order, so this one is met for the first time
            new += 1
        else:
            repeats += 1
            characters += ends[at] - starts[at]
    return repeats, characters


@kernel
def repeated_runs(words: Hashes, starts: Places, ends: Places, count: int, covered: Places) -> None:
    """Characters covered by the most frequent run of 2, 3 and 4 words, and by those of 5 to 10 that repeat an earlier one.

    A run of n + 1 words can repeat only where both runs of n words in it do: so each round looks at what the one before left,
    and tells runs apart by the numbers of these two. Pairs, the first, are told apart by the hashes of their words.

    Args:
        covered: shape (9,), filled. White space between the words of a run counts, no character counts twice.
    """
    covered[:] = 0
    keys, places = np.empty(count, np.uint64), np.empty(count, np.int64)
    ids, sizes, left = np.empty(count, np.int64), np.empty(count, np.int64), max(count - 1, 0)
    for at in range(left):
        keys[at] = (words[at] * BASE) ^ words[at + 1]
    left = _crowded(keys, left, places)
    for length in range(2, LONGEST + 1):
        if left < 2:
            break
        groups = group(keys, left, ids, sizes)
        if length <= TOP:
            covered[length - 2] = _of_most_frequent(places, ids, sizes, left, groups, starts, ends, length)
        else:
            covered[length - 2] = _of_repeats(places, ids, left, starts, ends, length)
        left = _longer(places, ids, sizes, left, groups, keys)


@kernel
def _crowded(keys: Hashes, count: int, places: Places) -> int:
    """Keep the keys, with their places, that share a cell with another one: all that repeat, and a few that do not.

    Most do not, and to see that so takes a third of the time of `group`, which has to foresee what each is.
    """
    room = 64
    while room < _CELLS * count:
        room *= 2
    cells, left = np.zeros(room, np.uint8), 0
    for at in range(count):
        cell = np.int64(((keys[at] * MIXER) >> np.uint64(32)) & np.uint64(room - 1))
        cells[cell] = min(cells[cell] + 1, 2)
    for at in range(count):
        key = keys[at]
        keys[left], places[left] = key, at
        left += cells[np.int64(((key * MIXER) >> np.uint64(32)) & np.uint64(room - 1))] > 1
    return left


@kernel
def _of_most_frequent(
    places: Places, ids: Places, sizes: Places, count: int, groups: int, starts: Places, ends: Places, length: int
) -> int:
    """Of equally frequent runs the one that occurs first; 0 where none occurs twice."""
    most, times = -1, 1
    for each in range(groups):
        if sizes[each] > times:
            most, times = each, sizes[each]
    total, behind = 0, 0
    for at in range(count):
        if ids[at] == most:
            end = ends[places[at] + length - 1]
            total += end - max(behind, starts[places[at]])
            behind = end
    return total


@kernel
def _of_repeats(places: Places, ids: Places, count: int, starts: Places, ends: Places, length: int) -> int:
    total, behind, new = 0, 0, 0
    for at in range(count):
        if ids[at] == new:
            new += 1
        else:
            end = ends[places[at] + length - 1]
            total += end - max(behind, starts[places[at]])
            behind = end
    return total


@kernel
def _longer(places: Places, ids: Places, sizes: Places, count: int, groups: int, keys: Hashes) -> int:
    """Keep the places where a run that is one word longer may repeat, and give their keys; returns how many."""
    left = 0
    for at in range(count - 1):
        if sizes[ids[at]] > 1 and sizes[ids[at + 1]] > 1 and places[at + 1] == places[at] + 1:
            keys[left] = np.uint64(ids[at] * groups + ids[at + 1])
            places[left] = places[at]
            left += 1
    return left
