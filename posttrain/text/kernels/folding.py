"""The text that two copies of a document have in common: Unicode NFC, case folding, NFC again, runs of white space as one blank.

The kernel folds character by character, which is right where no character can join its neighbour. Python folds the rest.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.characters import SPACE, SPACES, flags
from posttrain.text.kernels.compiling import COMPILED, kernel
from posttrain.text.kernels.text import ASCII, Bytes, Codes, Places, code_at, longest

KNOWN = 0x20000  # code points that the table has: nearly all that are written but rare Chinese characters
OTHERWISE = -1  # in the table: fold this text in Python
LOWER = 1 << 24  # in the table, added to a code point: lower-casing gives the same
SHARP_S, SMALL_S = 0xDF, ord("s")  # folds to two letters, and is in every German text
SIGMA = 0x3A3  # lower-cased in two ways, at the end of a word and elsewhere
_BLANK, _LATIN_A, _LATIN_Z, _SMALL, _TAB, _RETURN = 32, ord("A"), ord("Z"), 32, 9, 13


def folded(text: str) -> bytes:
    """UTF-8 of a folded text."""
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return b" ".join(word for word in composed.translate(_TO_BLANK).encode().split(b" ") if word)


class Folded(NamedTuple):
    """UTF-8 of some folded documents."""

    data: Bytes
    starts: Places
    """Where each document starts in `data`, shape (documents,)."""
    ends: Places
    lowered: Bytes
    """1 where lower-casing instead of case folding would give the same text, shape (documents,)."""

    def texts(self) -> list[bytes]:
        """The documents."""
        return list(map(bytes, self.views()))

    def views(self) -> list[memoryview]:
        """The same, of which nothing is copied."""
        held = memoryview(self.data)
        return [held[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


def fold(data: Bytes, offsets: Places) -> Folded:
    """Fold all documents.

    Args:
        data, offsets: as in `document.measure`.
    """
    count = len(offsets) - 1
    out = np.empty(2 * int(offsets[-1] - offsets[0]), np.uint8)
    starts, ends, lowered = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint8)
    to = _needed(data[offsets[0] : offsets[-1]])
    used = _fold_all(data, offsets, to, flags(), out, starts, ends, lowered) if COMPILED else 0
    rest = np.flatnonzero(ends == OTHERWISE) if COMPILED else np.arange(count)
    if not len(rest):
        return Folded(out[:used], starts, ends, lowered)
    texts = [folded(data[offsets[at] : offsets[at + 1]].tobytes().decode()) for at in rest]
    bounds = used + np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    starts[rest], ends[rest] = bounds[:-1], bounds[1:]
    return Folded(np.concatenate([out[:used], np.frombuffer(b"".join(texts), np.uint8)]), starts, ends, lowered)


def _needed(data: Bytes) -> Codes:
    """The table; an empty one for ASCII, which is folded without it: making it takes as long as folding thousands of prompts."""
    return table() if data.max(initial=0) >= ASCII else np.empty(0, np.int32)


_TO_BLANK = str.maketrans(dict.fromkeys(SPACES, " "))


@cache
def table() -> NDArray[np.int32]:
    """What each code point folds to where it does so alone and to one character, else OTHERWISE; shape (KNOWN,)."""
    joins = {ord(end) for end in map(_second_of_pair, range(KNOWN)) if end}
    found = np.full(KNOWN, OTHERWISE, np.int32)
    for code in range(KNOWN):
        if not 0xD800 <= code < 0xE000:
            to = chr(code).casefold()
            if len(to) == 1 and _stands_alone(code, joins) and _stands_alone(ord(to), joins):
                found[code] = ord(to) | (LOWER if chr(code).lower() == to and code != SIGMA else 0)
    found[SHARP_S] = SHARP_S
    return found


def _second_of_pair(code: int) -> str:
    """The character that composition would join to the one before it to make this one."""
    parts = unicodedata.decomposition(chr(code)).split()
    return chr(int(parts[1], 16)) if len(parts) == 2 and not parts[0].startswith("<") else ""


def _stands_alone(code: int, joins: set[int]) -> bool:
    """Whether NFC neither changes a character, nor moves it, nor joins it to the one before."""
    syllable_part = 0x1160 <= code < 0x1200  # vowels and final consonants of Korean, joined by rule
    character = chr(code)
    return not (syllable_part or code in joins or unicodedata.combining(character)) and unicodedata.is_normalized(
        "NFC", character
    )


@kernel
def _fold_all(
    data: Bytes, offsets: Places, to: Codes, flags: Bytes, out: Bytes, starts: Places, ends: Places, lowered: Bytes
) -> int:
    used, keep = 0, np.empty(longest(offsets[:-1], offsets[1:]), np.uint8)
    for each in range(len(offsets) - 1):
        starts[each] = used
        text = data[offsets[each] : offsets[each + 1]]
        if is_ascii(text):
            end, same = used + _fold_ascii(text, out[used:], keep), 1
        else:
            end, same = _fold_one(data, offsets[each], offsets[each + 1], to, flags, out, used)
        ends[each], lowered[each] = end, same
        used = end if end != OTHERWISE else used
    return used


@kernel
def is_ascii(text: Bytes) -> bool:
    """Whether all bytes are ASCII; many at a time."""
    every = np.uint8(0)
    for at in range(len(text)):
        every = np.uint8(every | text[at])
    return every < ASCII


@kernel
def _fold_ascii(text: Bytes, out: Bytes, keep: Bytes) -> int:
    """Bytes that are written of a text; without branches, since words end unforeseeably.

    Args:
        out, keep: room for as many bytes as the text has.
    """
    if len(text) == 0:
        return 0
    small, kept = out[: len(text)], keep[: len(text)]
    for at in range(len(text)):
        byte = text[at]
        capital, space = np.uint8((byte >= _LATIN_A) & (byte <= _LATIN_Z)), np.uint8((byte >= _TAB) & (byte <= _RETURN))
        letter = np.uint8(byte | np.uint8(capital * np.uint8(_SMALL)))
        small[at] = np.uint8(letter * np.uint8(1 - space)) | np.uint8(space * np.uint8(_BLANK))
    kept[0] = small[0] != _BLANK
    before, now, kept = small[:-1], small[1:], kept[1:]
    for at in range(len(now)):
        kept[at] = np.uint8((before[at] != _BLANK) | (now[at] != _BLANK))
    used = 0
    for at in range(len(text)):  # what is written lies before what is still read
        out[used] = out[at]
        used += keep[at]
    return used - np.int64(used > 0 and out[used - 1] == _BLANK)


@kernel
def _fold_one(data: Bytes, start: int, end: int, to: Codes, flags: Bytes, out: Bytes, used: int) -> tuple[int, int]:
    """Where the folded text ends in `out`, or OTHERWISE, and 1 where lower-casing gives the same, else 0."""
    at, first, pending, same = start, used, False, LOWER
    while at < end:
        byte = data[at]
        if byte < ASCII and byte > _BLANK:  # most of all texts: one byte, which folds to one byte
            if pending:
                out[used] = _BLANK
                used, pending = used + 1, False
            out[used] = byte | _SMALL if _LATIN_A <= byte <= _LATIN_Z else byte
            used, at = used + 1, at + 1
            continue
        if byte == _BLANK or _TAB <= byte <= _RETURN:
            pending, at = used > first, at + 1
            continue
        code, at = code_at(data, at)
        if flags[code] & SPACE:
            pending = used > first
            continue
        entry = to[code] if code < len(to) else OTHERWISE
        if entry == OTHERWISE:
            return OTHERWISE, 0
        if pending:
            out[used] = _BLANK
            used, pending = used + 1, False
        same &= entry
        folded_code = entry & ~LOWER
        if folded_code == SHARP_S:
            out[used] = SMALL_S
            used, folded_code = used + 1, SMALL_S
        used = _encode(folded_code, out, used)
    return used, same // LOWER


@kernel
def _encode(code: int, out: Bytes, used: int) -> int:
    """Write a code point as UTF-8, and return where the next one goes."""
    if code < 0x80:
        out[used] = code
        return used + 1
    if code < 0x800:
        out[used], out[used + 1] = 0xC0 | code >> 6, 0x80 | code & 63
        return used + 2
    if code < 0x10000:
        out[used], out[used + 1], out[used + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63
        return used + 3
    out[used], out[used + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 63
    out[used + 2], out[used + 3] = 0x80 | code >> 6 & 63, 0x80 | code & 63
    return used + 4
