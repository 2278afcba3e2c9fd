"""Where personal data may stand in a text: a few bytes of each place decide whether it is worth an expression in Python."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.text import Bytes, Places

MAIL, NUMBER, COLONS, WORD = range(4)
"""An @ between characters of addresses; a row of digits and separators; an address with colons; the first letters of a key."""
_DIGIT, _AT, _COLON, _LETTER, _OPENS = range(1, 6)
_HEX, _ALNUM, _SEPARATOR = 8, 16, 32
_LONGEST_GAP = 3  # separators between two digits of a number
_FEWEST_DIGITS, _FEWEST_OF_ADDRESS = 7, 4

KEYS: Final = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "gith", "glpa", "eyJ", "sk-", "sk_", "rk_", "pk_", "xox", "AIza",
    "hf_", "npm_", "SG.", "aws_", "AWS_", "api_", "API_", "apik", "apiK", "api-", "pypi", "dop_", "-----BEGIN",
)  # fmt: skip
"""What keys and tokens begin with."""
_KEYS = np.zeros((len(KEYS), 4), np.uint8)
for _row, _key in zip(_KEYS, KEYS, strict=True):
    _row[: len(_key)] = np.frombuffer(_key.encode()[:4], np.uint8)
_FIRST = np.zeros(256, np.uint8)
_FIRST[_KEYS[:, 0]] = 1


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for code in range(128):
        character = chr(code)
        table[code] |= _ALNUM * (character.isalnum() or character == "_") | _HEX * (character in "0123456789abcdefABCDEF")
        table[code] |= _SEPARATOR * (character in " -./()") | _DIGIT * character.isdigit()
        table[code] |= _LETTER * (character.isupper() or bool(_FIRST[code]))
    for character, kind in {"@": _AT, ":": _COLON, "(": _OPENS, "[": _OPENS}.items():
        table[ord(character)] |= kind
    return table


CLASSES: Final = _classes()


@kernel
def hits(data: Bytes, start: int, end: int, classes: Bytes, starts: Places, ends: Places, kinds: Bytes) -> int:
    """Places in one document that are worth a look; returns how many, each behind the start of the one before.

    Args:
        data: UTF-8; the document is `data[start:end]`.
        classes: CLASSES.
        starts, ends, kinds: filled; room for half as many as the document has bytes. Positions are those in `data`; the end of
            a number lies behind its last digit, other ends are not told (0).
    """
    found, at = 0, start
    while at < end:
        kind = classes[data[at]] & 7
        if kind == 0:
            at += 1
            continue
        word_before = at > start and (classes[data[at - 1]] & _ALNUM) > 0
        what, stop, hit_at, hit_end = -1, at + 1, at, 0
        if kind == _DIGIT:
            what, stop = _number(data, at, end, classes, word_before)
            hit_end = stop
        elif kind in (_AT, _OPENS):
            what = MAIL if _mail(data, at, start, end, classes, kind) else -1
        elif kind == _COLON:
            what, hit_at, stop = _colons(data, at, start, end, classes)
        elif not word_before and _word(data, at, end, classes):
            what = WORD
        if what >= 0:
            starts[found], ends[found], kinds[found] = hit_at, hit_end, what
            found += 1
        at = stop
    return found


@kernel
def all_hits(data: Bytes, offsets: Places, classes: Bytes, starts: Places, ends: Places, kinds: Bytes, until: Places) -> None:
    """`hits` of each document, one after the other; `until` is filled with the number of those up to each one's end."""
    used = 0
    for each in range(len(offsets) - 1):
        used += hits(data, offsets[each], offsets[each + 1], classes, starts[used:], ends[used:], kinds[used:])
        until[each] = used


@kernel
def _number(data: Bytes, at: int, end: int, classes: Bytes, word_before: bool) -> tuple[int, int]:
    """NUMBER where a row of digits is long enough, or has three full stops; and where it ends."""
    digits, dots, gap, last, place = 0, 0, 0, at, at
    while place < end and gap <= _LONGEST_GAP:
        byte = data[place]
        if (classes[byte] & 7) == _DIGIT:
            digits, last, gap = digits + 1, place, 0
        elif word_before:
            break
        elif classes[byte] & _SEPARATOR:
            dots, gap = dots + (byte == 46), gap + 1
        elif byte == 0xC2 and place + 1 < end and data[place + 1] == 0xA0:  # no-break space
            gap, place = gap + 1, place + 1
        elif byte == 0xE2 and place + 2 < end and (data[place + 1] == 0x80 or data[place + 1] == 0x81):  # other blanks, dashes
            gap, place = gap + 1, place + 2
        else:
            break
        place += 1
    worth = not word_before and (digits >= _FEWEST_DIGITS or (digits >= _FEWEST_OF_ADDRESS and dots >= 3))
    return NUMBER if worth else -1, last + 1


@kernel
def _mail(data: Bytes, at: int, start: int, end: int, classes: Bytes, kind: int) -> bool:
    """Whether an @, or an `at` in brackets, has something on both sides."""
    if kind == _AT:
        if at == start or at + 1 == end:
            return False
        before, behind = data[at - 1], data[at + 1]
        return (before > 0x20 and before != 64) and ((classes[behind] & _ALNUM) > 0 or behind >= 0x80 or behind == 91)
    return (
        at + 3 < end and (data[at + 1] | 32) == 97 and (data[at + 2] | 32) == 116 and (data[at + 3] == 41 or data[at + 3] == 93)
    )


@kernel
def _colons(data: Bytes, at: int, start: int, end: int, classes: Bytes) -> tuple[int, int, int]:
    """COLONS where the characters around a colon may be an IPv6 address; and where they start and end."""
    first, last, colons, double = at, at, 0, False
    while first > start and classes[data[first - 1]] & _HEX:
        first -= 1
    while last < end and (classes[data[last]] & _HEX or data[last] == 58 or data[last] == 46):
        if data[last] == 58:
            colons += 1
            double |= data[last - 1] == 58 and last > start
        last += 1
    worth = (colons >= 6 or (double and colons >= 2)) and last - first > 2
    if first > start and classes[data[first - 1]] & _ALNUM:
        worth = False
    return COLONS if worth else -1, first, last


@kernel
def _word(data: Bytes, at: int, end: int, classes: Bytes) -> bool:
    """Whether one of KEYS starts here, or an IBAN: two capitals and two digits."""
    if at + 4 >= end:
        return False
    one, two = data[at], data[at + 1]
    if 65 <= one <= 90 and 65 <= two <= 90 and (classes[data[at + 2]] & 7) == _DIGIT and (classes[data[at + 3]] & 7) == _DIGIT:
        return True
    if not _FIRST[one]:
        return False
    for row in range(len(_KEYS)):
        rest = _KEYS[row, 3] == 0 or _KEYS[row, 3] == data[at + 3]
        if rest and _KEYS[row, 0] == one and _KEYS[row, 1] == two and _KEYS[row, 2] == data[at + 2]:
            return True
    return False
