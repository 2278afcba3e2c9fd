"""Which sets of 5-grams have a Jaccard index with a known set that is high enough: all of them, without comparing every pair.

Two sets of which one has n members, and whose index is j or more, share at least a = ceil(j n) of these. So in any order of the
members that both keep, one of the first n - a + 1 of the one is among the first of the other (Chaudhuri et al. 2006, a primitive
operator for similarity joins). Here rare members come first: what thousands of prompts of a template have in common comes last,
and proposes nothing. How rare a member is, is counted by some bits of its hash, in a table of fixed size.

Where no member is rare, as in sentences out of three words, many sets are proposed. 64 bits of each tell that most of these are
unlike (Sandes et al. 2020, bitmap filter for speeding up exact set similarity joins), in a hundredth of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.minhash import jaccard
from posttrain.text.kernels.text import Hashes, Places

Counts = NDArray[np.uint32]
SLACK = 1e-9  # of products of a float, so that nothing is left out
_COUNT, _HASH = np.uint64(40), np.uint64(24)  # bits of a key that a hash has, and of the hash that this leaves out
_MOST = np.uint32(2**24 - 1)  # that is counted


@kernel
def distinct(sets: Hashes, lengths: Places, fewest: int) -> int:
    """Sorts each set and leaves out what comes twice, and all of a set that has then fewer members; returns how many are left.

    Args:
        sets: one behind the other, shape (members,), overwritten from its start.
        lengths: of each, overwritten.
    """
    used, at = 0, 0
    for each in range(len(lengths)):
        own = np.sort(sets[at : at + lengths[each]])
        at += lengths[each]
        count = 0
        for member in range(len(own)):
            if member == 0 or own[member] != own[member - 1]:
                sets[used + count] = own[member]
                count += 1
        lengths[each] = count if count >= fewest else 0
        used += lengths[each]
    return used


@kernel
def count(sets: Hashes, shift: int, counts: Counts) -> None:
    """How often members come, by their highest bits.

    Args:
        shift: bits of a hash that are not looked at.
        counts: shape (2 ** (64 - shift),), added to.
    """
    for at in range(len(sets)):
        place = sets[at] >> np.uint64(shift)
        counts[place] = min(counts[place] + np.uint32(1), _MOST)


@kernel
def _first(own: Hashes, counts: Counts, shift: int, least: float) -> Hashes:
    """Keys of the rarest members of a set, of which a set that is like it must have one among its own; rare ones come first."""
    keys = np.empty(len(own), np.uint64)
    for at in range(len(own)):
        keys[at] = np.uint64(counts[own[at] >> np.uint64(shift)]) << _COUNT | own[at] >> _HASH
    shared = max(1, int(np.ceil(least * len(own) - SLACK)))
    return np.sort(keys)[: len(own) - shared + 1]


@kernel
def parity(own: Hashes) -> int:
    """64 bits, of which each member turns one: those of two sets differ in no more bits than the sets have members apart."""
    bits = np.uint64(0)
    for member in own:
        bits ^= np.uint64(1) << (member & np.uint64(63))
    return bits


@kernel
def ones(bits: int) -> int:
    """How many bits are set."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@kernel
def index(
    known: Hashes, ends: Places, counts: Counts, shift: int, least: float, keys: Hashes, sets: Places, bits: Hashes
) -> int:  # fmt: skip
    """The keys by which known sets are found; returns how many.

    Args:
        known, ends: the sets, and where each ends behind the one before.
        keys, sets: a key and the number of its set, filled; room for as many as `known` has members, and one for each set.
        bits: `parity` of each set, shape (known sets,), filled.
    """
    used, start = 0, 0
    for each in range(len(ends)):
        bits[each] = parity(known[start : ends[each]])
        if ends[each] > start:
            found = _first(known[start : ends[each]], counts, shift, least)
            keys[used : used + len(found)], sets[used : used + len(found)] = found, each
            used += len(found)
        start = ends[each]
    return used


@kernel
def join(
    asked: Hashes, lengths: Places, known: Hashes, ends: Places, counts: Counts, shift: int, least: float, keys: Hashes,
    sets: Places, bits: Hashes, seen: Places, found: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Which of the sets that are asked for have an index of `least` or more with a known one; returns the comparisons.

    Args:
        asked, lengths: sorted sets, one behind the other.
        known, ends, counts, shift, least: as in `index`, of all known sets.
        keys, sets: what that gave, by key.
        bits: `parity` of the set of each key.
        seen: shape (known sets,), -1 everywhere; by which set each was compared last.
        found: shape (sets,), filled.
    """
    start, compared = 0, 0
    for each in range(len(lengths)):
        own = asked[start : start + lengths[each]]
        start += lengths[each]
        found[each] = False
        if len(own) == 0:
            continue
        mark = parity(own)
        most = np.int64(len(own) * (1 - least) / max(least, SLACK) + SLACK)  # members that two such sets do not share
        for key in _first(own, counts, shift, least):
            if key >> _COUNT == np.uint64(0):  # no known set has it
                continue
            at = np.searchsorted(keys, key)
            while at < len(keys) and keys[at] == key and not found[each]:
                rival = sets[at]
                at += 1
                if np.int64(ones(mark ^ bits[at - 1])) > most:
                    continue
                begin = ends[rival - 1] if rival else 0
                size = ends[rival] - begin
                if seen[rival] == each or min(size, len(own)) < least * max(size, len(own)) - SLACK:
                    continue
                seen[rival] = each
                compared += 1
                found[each] = jaccard(own, known[begin : ends[rival]]) >= least
            if found[each]:
                break
    return compared
