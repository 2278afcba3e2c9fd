"""In which script a text is written, by the Unicode blocks of its letters."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

_BLOCKS: Final = {
    "Latin": [(0x41, 0x24F), (0x250, 0x2AF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xFB00, 0xFB06),
              (0xFF21, 0xFF5A)],
    "Greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "Cyrillic": [(0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)],
    "Armenian": [(0x530, 0x58F)],
    "Hebrew": [(0x590, 0x5FF), (0xFB1D, 0xFB4F)],
    "Arabic": [(0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)],
    "Devanagari": [(0x900, 0x97F), (0xA8E0, 0xA8FF)],
    "Bengali": [(0x980, 0x9FF)],
    "Gurmukhi": [(0xA00, 0xA7F)],
    "Gujarati": [(0xA80, 0xAFF)],
    "Oriya": [(0xB00, 0xB7F)],
    "Tamil": [(0xB80, 0xBFF)],
    "Telugu": [(0xC00, 0xC7F)],
    "Kannada": [(0xC80, 0xCFF)],
    "Malayalam": [(0xD00, 0xD7F)],
    "Sinhala": [(0xD80, 0xDFF)],
    "Thai": [(0xE00, 0xE7F)],
    "Lao": [(0xE80, 0xEFF)],
    "Tibetan": [(0xF00, 0xFFF)],
    "Myanmar": [(0x1000, 0x109F), (0xAA60, 0xAA7F)],
    "Georgian": [(0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)],
    "Hangul": [(0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)],
    "Ethiopic": [(0x1200, 0x139F)],
    "Khmer": [(0x1780, 0x17FF)],
    "Mongolian": [(0x1800, 0x18AF)],
    "Kana": [(0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)],
    "Han": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)],
}  # fmt: skip
_SORTED: Final = sorted((first, last, name) for name, blocks in _BLOCKS.items() for first, last in blocks)
_FIRSTS: Final = np.array([first for first, _, _ in _SORTED])
_LASTS: Final = np.array([last for _, last, _ in _SORTED])
_NAMES: Final = [name for _, _, name in _SORTED]


def scripts(text: str) -> dict[str, float]:
    """Share of the letters in each script, the largest first; empty for a text without letters of a known one.

    Kanji beside kana are counted as kana: they are one script of Japanese.
    """
    codes = np.frombuffer("".join(filter(str.isalpha, text)).encode("utf-32-le", "surrogatepass"), np.uint32)
    places = np.searchsorted(_FIRSTS, codes, side="right") - 1
    known = (places >= 0) & (codes <= _LASTS[places])
    counts: Counter[str] = Counter()
    for place, count in zip(*np.unique(places[known], return_counts=True), strict=True):
        counts[_NAMES[place]] += int(count)
    if "Kana" in counts:
        counts["Kana"] += counts.pop("Han", 0)
    total = counts.total()
    return {name: count / total for name, count in counts.most_common()}


def script(text: str) -> str | None:
    """The script of most of the letters; None for a text without letters of a known one."""
    return next(iter(scripts(text)), None)
