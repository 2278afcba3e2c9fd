"""Takes lines out of documents, as C4 does (Raffel et al. 2020, arXiv 1910.10683, section 2.2)."""

from __future__ import annotations

from typing import Final

import numpy as np

from posttrain.filters.kernels.document import ends_with_ellipsis, says
from posttrain.text.kernels.characters import SPACE, TERMINAL
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import NEWLINE, Bytes, Codes, Places, decode, spans

REASONS: Final = ("min_words", "max_word_length", "drop_unpunctuated", "drop_ellipsis", "drop_javascript", "drop_policy")
"""Fields of `LineRules`, in the order in which they are asked."""
JAVASCRIPT: Final = "javascript"
POLICIES: Final = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

_KEPT = -1
_PHRASES = [np.array([ord(character) for character in phrase], np.int32) for phrase in (JAVASCRIPT, *POLICIES)]
_LENGTHS = np.array([len(phrase) for phrase in _PHRASES], np.int64)
_PADDED = np.array([np.pad(phrase, (0, 20 - len(phrase))) for phrase in _PHRASES], np.int32)
_FIRST_TWO = {phrase[:2] for phrase in (JAVASCRIPT, *POLICIES)}
_PAIRS = np.array([[(chr(one) + chr(two)).lower() in _FIRST_TWO for two in range(128)] for one in range(128)])


@kernel
def drop_lines(data: Bytes, offsets: Places, flags: Bytes, limits: Places, out: Bytes, ends: Places, dropped: Places) -> int:
    """Write the documents without the lines that a rule takes out; blank lines stay, since they part paragraphs.

    Args:
        data, offsets, flags: as in `document.measure`.
        limits: one for each of REASONS: fewest words, longest word, and 1 where a rule is on, else 0.
        out: room for as many bytes as the documents have.
        ends: where each document ends in `out`, shape (documents,), filled.
        dropped: lines that were taken out of each, by reason, shape (documents, len(REASONS)), filled.

    Returns:
        How many bytes were written.
    """
    longest = np.int64(0)
    for each in range(len(offsets) - 1):
        longest = max(longest, offsets[each + 1] - offsets[each])
    codes, kinds, prefix = np.empty(longest, np.int32), np.empty(longest, np.uint8), np.empty(longest + 1, np.uint64)
    used = 0
    for each in range(len(offsets) - 1):
        at, end, begin = offsets[each], offsets[each + 1], used
        while at <= end:
            stop = at
            while stop < end and data[stop] != NEWLINE:
                stop += 1
            why = _why(codes, kinds, decode(data, at, stop, flags, codes, kinds, prefix), limits)
            if why == _KEPT:
                used = _append(data[at:stop], out, used, begin)
            else:
                dropped[each, why] += 1
            at = stop + 1
        if dropped[each].sum() == 0:
            used = _append(data[offsets[each] : end], out, begin, begin)
        ends[each] = used
    return used


@kernel
def _append(line: Bytes, out: Bytes, used: int, begin: int) -> int:
    """A line, after a break if it is not the first that is kept."""
    if used > begin:
        out[used] = NEWLINE
        used += 1
    out[used : used + len(line)] = line
    return used + len(line)


@kernel
def _why(codes: Codes, kinds: Bytes, count: int, limits: Places) -> int:
    """Index in REASONS of the first rule that takes a line out, or -1."""
    starts, ends = np.empty(count // 2 + 2, np.int64), np.empty(count // 2 + 2, np.int64)
    found = spans(kinds, count, SPACE, 0, starts, ends)
    if found == 0:
        return _KEPT
    if found < limits[0]:
        return 0
    for at in range(found):
        if ends[at] - starts[at] > limits[1]:
            return 1
    start, end = starts[0], ends[found - 1]
    if limits[2] and not kinds[end - 1] & TERMINAL:
        return 2
    if limits[3] and ends_with_ellipsis(codes, start, end):
        return 3
    return _phrase(codes, count, limits)


@kernel
def _phrase(codes: Codes, count: int, limits: Places) -> int:
    if not limits[4] and not limits[5]:
        return _KEPT
    policy = _KEPT
    for at in range(count - 1):
        if (codes[at] | codes[at + 1]) < 128 and _PAIRS[codes[at], codes[at + 1]]:
            for which in range(len(_LENGTHS)):
                if says(codes, at, count, _PADDED[which, : _LENGTHS[which]]):
                    if which == 0 and limits[4]:
                        return 4
                    if which > 0 and limits[5]:
                        policy = 5
    return policy
