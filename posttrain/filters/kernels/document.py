"""The metrics of documents, in one pass over each: the columns of `COLUMNS`, as `posttrain.filters.metrics` defines them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.kernels.repeats import repeated_runs, repeated_spans
from posttrain.text.kernels.characters import BULLET, CLOSER, LETTER, SPACE, STOP, TERMINAL, WIDE, WORD
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.folding import is_ascii
from posttrain.text.kernels.text import (
    ASCII,
    NEWLINE,
    Bytes,
    Codes,
    Places,
    decode,
    hash_spans,
    lines,
    longest,
    paragraphs,
    spans,
)  # fmt: skip

COLUMNS: Final = (
    "words", "mean_word_length", "alphabetic_word_share", "hash_per_word", "ellipsis_per_word", "newlines_per_word",
    "curly_brackets", "lorem_ipsum", "stop_words", "sentences", "bullet_line_share", "ellipsis_line_share",
    "punctuated_line_share", "short_line_share", "duplicate_line_share", "duplicate_line_characters",
    "duplicate_paragraph_share", "duplicate_paragraph_characters", *(f"top_{n}gram_characters" for n in (2, 3, 4)),
    *(f"duplicate_{n}gram_characters" for n in range(5, 11)),
)  # fmt: skip
STOP_WORDS: Final = ("the", "be", "to", "of", "and", "that", "have", "with")
SHORT = 30  # characters of a short line

HASH, DOT, ELLIPSIS, CURLY, STAR, DASH = (ord(character) for character in "#.…{*-")
_DOT = np.uint8(DOT)
_LATIN_A, _LATIN_Z, _TO_LOWER = ord("A"), ord("Z"), 32
_LOREM, _LOREM_LENGTH = np.array([ord(character) for character in "lorem ipsum"], np.int32), 5
_LONGEST_STOP_WORD = max(map(len, STOP_WORDS))
_BLOCK, _STRIDE = 128, 32  # characters that are counted, or looked at, together
_SMALL = 32  # the bit by which small Latin letters differ from capitals; digits have it
_PACKED = [int.from_bytes(word.encode(), "big") for word in STOP_WORDS]
_SPREAD = next(odd for odd in range(1, 1 << 20, 2) if len({(word * odd & 0xFFFFFFFF) >> 28 for word in _PACKED}) == len(_PACKED))
_BY_SPREAD = np.full(16, -1)
_BY_SPREAD[[(word * _SPREAD & 0xFFFFFFFF) >> 28 for word in _PACKED]] = _PACKED


@kernel
def measure(data: Bytes, offsets: Places, flags: Bytes, out: NDArray[np.float64]) -> None:
    """Fill one row per document.

    Args:
        data: UTF-8 of all documents.
        offsets: where each starts in `data`, and where the last ends, shape (documents + 1,).
        flags: of `characters.flags`.
        out: shape (documents, len(COLUMNS)).
    """
    size = longest(offsets[:-1], offsets[1:])
    codes, kinds, places = np.empty(size, np.int32), np.empty(size, np.uint8), np.empty(size + 1, np.int64)
    for each in range(len(offsets) - 1):
        text = data[offsets[each] : offsets[each + 1]]
        if is_ascii(text):  # bytes are code points, and stand where these do
            for at in range(len(text)):
                kinds[at] = flags[text[at]]
            _measure(text, text, kinds[: len(text)], places[:0], out[each])
        else:
            count = decode(text, flags, codes, kinds, places)
            _measure(text, codes[:count], kinds[:count], places, out[each])


@kernel
def _measure(text: Bytes, codes: Codes, kinds: Bytes, places: Places, out: NDArray[np.float64]) -> None:
    """The row of one document.

    Args:
        text: its bytes.
        codes: its code points, of 32 bits, or of 8 where all are ASCII.
        kinds: their flags.
        places: where each starts among the bytes; empty where all are ASCII.
    """
    count = len(codes)
    _symbols(text, codes, count, out)
    out[7], out[8] = _known_words(codes, kinds, count)
    out[9] = _sentences(kinds, count)
    _words(text, kinds, count, places, out)
    _units(text, codes, kinds, count, places, out)


@kernel
def _hashes(text: Bytes, starts: Places, ends: Places, found: int, places: Places) -> NDArray[np.uint64]:
    """Of some spans of characters."""
    keys = np.empty(found, np.uint64)
    if len(places):
        hash_spans(text, places[starts[:found]], places[ends[:found]], found, keys)
    else:
        hash_spans(text, starts, ends, found, keys)
    return keys


@kernel
def _words(text: Bytes, kinds: Bytes, count: int, places: Places, out: NDArray[np.float64]) -> None:
    """Columns of words; divides by them what `_symbols` counted."""
    room = count // 2 + 2
    starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    found = spans(kinds, count, SPACE, 0, starts, ends)
    of, length, lettered = max(found, 1), 0, 0
    for at in range(found):
        length += ends[at] - starts[at]
        lettered += _has(kinds, LETTER, starts[at], ends[at])
    out[0], out[1], out[2] = found, length / of, lettered / of
    out[3] /= of
    out[4] /= of
    out[5] = out[5] / of if found else 0.0
    covered = np.empty(9, np.int64)
    repeated_runs(_hashes(text, starts, ends, found, places), starts, ends, found, covered)
    for at in range(9):
        out[18 + at] = covered[at] / max(count, 1)


@kernel
def _units(text: Bytes, codes: Codes, kinds: Bytes, count: int, places: Places, out: NDArray[np.float64]) -> None:
    """Columns of lines and of paragraphs."""
    room = count + 2  # every character may be a line break
    starts, ends, after_blank = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint8)
    found = lines(codes, kinds, count, starts, ends, after_blank)
    bullets, trailing, punctuated, short = 0, 0, 0, 0
    for at in range(found):
        start, end = starts[at], ends[at]
        bullets += starts_with_bullet(codes, kinds, start, end)
        trailing += ends_with_ellipsis(codes, start, end)
        punctuated += (kinds[end - 1] & TERMINAL) > 0
        short += end - start <= SHORT
    of = max(found, 1)
    out[10], out[11], out[12], out[13] = bullets / of, trailing / of, punctuated / of, short / of
    _repeats(text, starts, ends, found, count, places, out[14:16])
    from_, to = np.empty(found, np.int64), np.empty(found, np.int64)
    blocks = paragraphs(starts, ends, after_blank, found, from_, to)
    _repeats(text, from_, to, blocks, count, places, out[16:18])


@kernel
def _repeats(
    text: Bytes, starts: Places, ends: Places, found: int, count: int, places: Places, out: NDArray[np.float64]
) -> None:  # fmt: skip
    repeats, characters = repeated_spans(_hashes(text, starts, ends, found, places), starts, ends, found)
    out[0], out[1] = repeats / max(found, 1), characters / max(count, 1)


@kernel
def starts_with_bullet(codes: Codes, kinds: Bytes, start: int, end: int) -> bool:
    """Whether a line has a bullet character, or a dash or star before white space, at its start."""
    if kinds[start] & BULLET:
        return True
    return (codes[start] == DASH or codes[start] == STAR) and end > start + 1 and (kinds[start + 1] & SPACE) > 0


@kernel
def ends_with_ellipsis(codes: Codes, start: int, end: int) -> bool:
    """Whether a line ends in `…` or three full stops."""
    if codes[end - 1] == ELLIPSIS:
        return True
    return end - start >= 3 and codes[end - 1] == DOT and codes[end - 2] == DOT and codes[end - 3] == DOT


@kernel
def _symbols(data: Bytes, codes: Codes, count: int, out: NDArray[np.float64]) -> None:
    """Columns that count characters; of bytes, where these are ASCII, since more of them fit into a vector.

    Args:
        data: UTF-8 of the document, whose characters are `codes[:count]`.
    """
    hashes, newlines, curly, ellipses, other, every = 0, 0, 0, 0, np.uint8(255), np.uint8(0)
    for first in range(0, len(data), _BLOCK):
        some = data[first : first + _BLOCK]
        few = few_lines = few_curly = np.uint8(0)  # a byte can hold what a block has, and 32 of them fit into a vector
        for at in range(len(some)):
            byte = some[at]
            few = np.uint8(few + np.uint8(byte == HASH))  # a sum of bytes would be a number of 64 bits
            few_lines = np.uint8(few_lines + np.uint8(byte == NEWLINE))
            few_curly = np.uint8(few_curly + np.uint8(byte == CURLY))
            every = np.uint8(every | byte)
        hashes, newlines, curly = hashes + few, newlines + few_lines, curly + few_curly
    ones, twos, threes = data[: max(len(data) - 2, 0)], data[1:], data[2:]  # places that are plainly positive make vectors
    for at in range(len(ones)):
        other = min(other, np.uint8((ones[at] ^ _DOT) | (twos[at] ^ _DOT) | (threes[at] ^ _DOT)))
    if every >= ASCII:
        for at in range(count):
            ellipses += codes[at] == ELLIPSIS
    if other == 0:  # three full stops somewhere
        for at in range(2, count):
            begins = at == 2 or codes[at - 3] != DOT
            ellipses += begins & (codes[at] == DOT) & (codes[at - 1] == DOT) & (codes[at - 2] == DOT)
    out[3], out[4], out[5], out[6] = hashes, ellipses, newlines, curly


@kernel
def _known_words(codes: Codes, kinds: Bytes, count: int) -> tuple[int, int]:
    """How often `lorem ipsum` occurs, and how many different stop words, between what are no letters, digits or `_`."""
    starts, ends = np.empty(count // 2 + 2, np.int64), np.empty(count // 2 + 2, np.int64)
    lorem, found, small = 0, 0, np.zeros(count + _LONGEST_STOP_WORD, np.uint8)
    for at in range(count):
        small[at] = np.uint8(min(codes[at], 127) | _SMALL)
    for each in range(spans(kinds, count, WORD, WORD, starts, ends)):
        start, length = starts[each], ends[each] - starts[each]
        packed = np.int64(0)
        for at in range(start, start + _LONGEST_STOP_WORD):  # always as many: which words are short cannot be foreseen
            packed = packed << 8 | np.int64(small[at])
        packed = packed >> 8 * (_LONGEST_STOP_WORD - length) if length <= _LONGEST_STOP_WORD else 0
        which = (packed * _SPREAD & 0xFFFFFFFF) >> 28
        found |= np.int64(_BY_SPREAD[which] == packed) << which
        if length == _LOREM_LENGTH and small[start] == _LOREM[0]:
            lorem += says(codes, start, count, _LOREM)
    total = 0
    for which in range(len(_BY_SPREAD)):
        total += found >> which & 1
    return lorem, total


@kernel
def lower(code: int) -> int:
    """A small Latin letter for a capital; 255 for what is no ASCII."""
    return np.int64(code + _TO_LOWER if _LATIN_A <= code <= _LATIN_Z else min(code, 255))


@kernel
def says(codes: Codes, at: int, count: int, phrase: Codes) -> bool:
    """Whether a phrase of small Latin letters and blanks stands at a place, in any case."""
    if at + len(phrase) > count:
        return False
    for place in range(len(phrase)):  # noqa: SIM110 - numba has no `all` of a generator
        if lower(codes[at + place]) != phrase[place]:
            return False
    return True


@kernel
def _sentences(kinds: Bytes, count: int) -> int:
    """How many pieces with a letter, digit or `_` the ends of sentences leave."""
    found, since, at = 0, 0, 0
    while at < count:
        if at + _STRIDE <= count and not _any(kinds[at : at + _STRIDE], STOP):
            at += _STRIDE
            continue
        until = min(at + _STRIDE, count)
        while at < until:
            if not kinds[at] & STOP:
                at += 1
                continue
            first, at = at, at + 1
            if not kinds[first] & WIDE:
                while at < count and kinds[at] & (STOP | CLOSER) and not kinds[at] & WIDE:
                    at += 1
            if kinds[first] & WIDE or at == count or kinds[at] & SPACE:
                found += _has(kinds, WORD, since, first)
                since = at
    return found + _has(kinds, WORD, since, count)


@kernel
def _any(kinds: Bytes, flag: int) -> bool:
    """Whether one of a few characters has a flag; many at a time."""
    every = np.uint8(0)
    for at in range(_STRIDE):
        every = np.uint8(every | kinds[at])
    return (every & flag) > 0


@kernel
def _has(kinds: Bytes, flag: int, start: int, end: int) -> bool:
    for at in range(start, end):  # noqa: SIM110 - numba has no `any` of a generator
        if kinds[at] & flag:
            return True
    return False
