"""Takes lines out of documents, as C4 does (Raffel et al. 2020, arXiv 1910.10683, section 2.2)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.kernels.document import ends_with_ellipsis, lower, says
from posttrain.text.kernels.characters import SPACE, TERMINAL
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.folding import is_ascii
from posttrain.text.kernels.text import NEWLINE, Bytes, Codes, Places, code_at, longest

REASONS: Final = ("min_words", "max_word_length", "drop_unpunctuated", "drop_ellipsis", "drop_javascript", "drop_policy")
"""Fields of `LineRules`, in the order in which they are asked."""
JAVASCRIPT: Final = "javascript"
POLICIES: Final = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

Kinds = NDArray[np.int8]
_KEPT = -1
_SMALL = np.uint8(32)  # the bit by which small Latin letters differ from capitals; a blank has it
_RARE_FOURS = tuple(tuple(map(np.uint8, letters.encode())) for letters in ("ascr", "ivac", "okie", "f us"))
_RARE: Final = {JAVASCRIPT: 2, "terms of use": 7, "privacy policy": 3, "cookie policy": 3, "uses cookies": 8,
                "use of cookies": 10, "use cookies": 7}  # fmt: skip
"""Of each phrase the place of a letter that few words have: where that stands, the phrase is looked for."""
_PHRASES = [np.array([ord(character) for character in phrase], np.int32) for phrase in _RARE]
_LENGTHS, _PLACES = np.array([len(phrase) for phrase in _RARE], np.int64), np.array(list(_RARE.values()), np.int64)
_PADDED = np.array([np.pad(phrase, (0, 20 - len(phrase))) for phrase in _PHRASES], np.int32)
_LETTERS = np.array([ord(phrase[place]) for phrase, place in _RARE.items()], np.int64)
_STARTS_SEARCH = np.isin(np.arange(128) | 32, _LETTERS)
assert set(_RARE) == {JAVASCRIPT, *POLICIES}
assert all(any(bytes(map(int, letters)).decode() in phrase for letters in _RARE_FOURS) for phrase in _RARE)


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
    size = longest(offsets[:-1], offsets[1:])
    codes, whys, stops, used = np.empty(size, np.int32), np.empty(size + 1, np.int8), np.empty(size + 1, np.int64), 0
    silent = limits.copy()
    silent[4:] = 0
    for each in range(len(offsets) - 1):
        text, begin = data[offsets[each] : offsets[each + 1]], used
        count = _line_ends(text, stops)
        asked = limits if (limits[4] or limits[5]) and _may_say(text) else silent
        if _look_at_lines(text, stops[:count], flags, asked, codes, whys, dropped[each]) == 0:
            used = append(text, 0, len(text), out, begin, begin)
        else:
            start = 0
            for line in range(count):
                if whys[line] == _KEPT:
                    used = append(text, start, stops[line], out, used, begin)
                start = stops[line] + 1
        ends[each] = used
    return used


@kernel
def _line_ends(text: Bytes, stops: Places) -> int:
    """Where the lines of a document end; returns how many there are. Without branches, since lines end unforeseeably."""
    found = 0
    for at in range(len(text)):
        stops[found] = at
        found += text[at] == NEWLINE
    stops[found] = len(text)
    return found + 1


@kernel
def _look_at_lines(text: Bytes, stops: Places, flags: Bytes, limits: Places, codes: Codes, whys: Kinds, dropped: Places) -> int:
    """Why each line of a document goes, or _KEPT, in their order; returns how many go."""
    start, gone, ascii_only = 0, 0, is_ascii(text)
    for line in range(len(stops)):
        stop = stops[line]
        if ascii_only or is_ascii(text[start:stop]):  # bytes are code points
            why = _why(text[start:stop], flags, limits)
        else:
            why = _why(_code_points(text, start, stop, codes), flags, limits)
        whys[line] = why
        if why != _KEPT:
            dropped[why] += 1
            gone += 1
        start = stop + 1
    return gone


@kernel
def _may_say(text: Bytes) -> bool:
    """Whether four letters that only few words besides the phrases have stand somewhere: else no line need be searched."""
    other = np.uint8(255)
    ones, twos, threes, fours = text[: max(len(text) - 3, 0)], text[1:], text[2:], text[3:]
    for at in range(len(ones)):
        one, two = np.uint8(ones[at] | _SMALL), np.uint8(twos[at] | _SMALL)
        three, four = np.uint8(threes[at] | _SMALL), np.uint8(fours[at] | _SMALL)
        for each in range(len(_RARE_FOURS)):
            letters = _RARE_FOURS[each]
            other = min(other, np.uint8((one ^ letters[0]) | (two ^ letters[1]) | (three ^ letters[2]) | (four ^ letters[3])))
    return other == 0


@kernel
def _code_points(data: Bytes, start: int, end: int, codes: Codes) -> Codes:
    at, count = start, 0
    while at < end:
        codes[count], at = code_at(data, at)
        count += 1
    return codes[:count]


@kernel
def append(data: Bytes, start: int, stop: int, out: Bytes, used: int, begin: int) -> int:
    """A line, after a break if it is not the first that is kept."""
    if used > begin:
        out[used] = NEWLINE
        used += 1
    copied, room = data[start:stop], out[used : used + stop - start]
    for at in range(len(copied)):
        room[at] = copied[at]
    return used + stop - start


@kernel
def _why(codes: Codes, flags: Bytes, limits: Places) -> int:
    """Index in REASONS of the first rule that takes a line out, or -1."""
    last = len(codes) - 1
    while last >= 0 and flags[codes[last]] & SPACE:
        last -= 1
    if last < 0:
        return _KEPT
    if _fewer_words(codes[: last + 1], flags, limits[0]):
        return 0
    if last >= limits[1] and _longest_word(codes[: last + 1], flags) > limits[1]:
        return 1
    if limits[2] and not flags[codes[last]] & TERMINAL:
        return 2
    if limits[3] and ends_with_ellipsis(codes, 0, last + 1):
        return 3
    return _phrase(codes, limits) if limits[4] or limits[5] else _KEPT


@kernel
def _fewer_words(codes: Codes, flags: Bytes, wanted: int) -> bool:
    """Whether a line without white space at its end has fewer words; most have enough after a few characters."""
    words, before = 0, True
    for at in range(len(codes)):
        space = (flags[codes[at]] & SPACE) > 0
        words += before and not space
        if words >= wanted:
            return False
        before = space
    return words < wanted


@kernel
def _longest_word(codes: Codes, flags: Bytes) -> int:
    longest, run = 0, 0
    for at in range(len(codes)):
        run = 0 if flags[codes[at]] & SPACE else run + 1
        longest = max(longest, run)
    return longest


@kernel
def _phrase(codes: Codes, limits: Places) -> int:
    policy = _KEPT
    for at in range(len(codes)):
        code = np.int64(codes[at])
        if code < 128 and _STARTS_SEARCH[code]:
            for which in range(len(_LENGTHS)):
                start = at - _PLACES[which]
                if _LETTERS[which] != lower(code) or start < 0:
                    continue
                if says(codes, start, len(codes), _PADDED[which, : _LENGTHS[which]]):
                    if which == 0 and limits[4]:
                        return 4
                    if which > 0 and limits[5]:
                        policy = 5
    return policy
