"""The language of texts by their beginnings, from the first letter on, as `posttrain/text/language.py` says it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.characters import LETTER, SPACE, WORD
from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.folding import is_ascii
from posttrain.text.kernels.languages import room, told
from posttrain.text.kernels.pieces import Model
from posttrain.text.kernels.text import ASCII, Bytes, Places, code_at

NONE: Final = -1
"""In the place of a label: the text has no letter."""
OTHERWISE: Final = -2
"""Python must tell: these tables do not know whether a letter that is not ASCII's is small, or a sign is one; and few texts begin
with capitals alone and go on with others."""
_AS_IS, _CAPITALS = 0, 1
_BLANK, _SMALL = 32, 32
_WIDEST = 4  # bytes of a character


@kernel
def languages(
    data: Bytes, offsets: Places, flags: Bytes, short: int, long: int, sure: float, model: Model, labels: NDArray[np.int32],
    scores: NDArray[np.float32],
) -> None:  # fmt: skip
    """The most probable label of each text, and its probability.

    Args:
        data, offsets: UTF-8 of the texts (`Buffers`).
        flags: of `characters.flags`.
        short, long: characters that are looked at from the first letter on, the more where the score is below `sure`.
        labels, scores: shape (texts,), filled; NONE and OTHERWISE are labels too.
    """
    out, held = np.empty(_WIDEST * long, np.uint8), room(model, _WIDEST * long, offsets[-1] - offsets[0])
    for each in range(len(offsets) - 1):
        start, scores[each] = _first_letter(data, offsets[each], offsets[each + 1], flags), np.float32(0)
        if start < 0:
            labels[each] = start
            continue
        cut = _behind(data, start, offsets[each + 1], short)
        end = _behind(data, cut, offsets[each + 1], long - short)
        letters = _letters(data, start, cut)
        if letters == OTHERWISE or letters != _letters(data, start, end):  # or capitals alone, and small letters after them
            labels[each] = OTHERWISE
            continue
        cut, end = _plain(data, start, cut, end, flags, letters, out)
        labels[each], scores[each] = told(model, out, 0, cut, end, sure, held)


@kernel
def _first_letter(data: Bytes, at: int, end: int, flags: Bytes) -> int:
    """Where the first letter stands; NONE, or OTHERWISE before a sign such as ² that may count as one."""
    while at < end:
        code, behind = code_at(data, at)
        if flags[code] & LETTER:
            return at
        if code >= ASCII and flags[code] & WORD:
            return OTHERWISE
        at = behind
    return NONE


@kernel
def _behind(data: Bytes, at: int, end: int, count: int) -> int:
    """The place behind so many characters."""
    if at + count <= end and is_ascii(data[at : at + count]):
        return at + count
    while at < end and count > 0:
        _, at = code_at(data, at)
        count -= 1
    return at


@kernel
def _letters(data: Bytes, start: int, end: int) -> int:
    """Whether all letters of a text that has some are capitals: one of ASCII is not, or all are ASCII's; else OTHERWISE."""
    for at in range(start, end):
        if 97 <= data[at] <= 122:
            return _AS_IS
    return _CAPITALS if is_ascii(data[start:end]) else OTHERWISE


@kernel
def _plain(data: Bytes, start: int, cut: int, end: int, flags: Bytes, letters: int, out: Bytes) -> tuple[int, int]:
    """Copy a text with ASCII's blank for other blanks, and small letters for capitals; where its cut and its end are in `out`."""
    used, at, cut_at = 0, start, end - start
    while at < end:
        if at == cut:
            cut_at = used
        byte = data[at]
        if byte < ASCII:
            out[used] = byte + _SMALL if letters == _CAPITALS and 65 <= byte <= 90 else byte
            used, at = used + 1, at + 1
            continue
        code, behind = code_at(data, at)
        if flags[code] & SPACE:
            out[used] = _BLANK
            used, at = used + 1, behind
            continue
        while at < behind:
            out[used] = data[at]
            used, at = used + 1, at + 1
    return min(cut_at, used), used
