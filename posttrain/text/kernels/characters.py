"""What a character is: a byte of flags per code point, looked up once for each character of a corpus."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SPACE, LETTER, WORD, TERMINAL, STOP, CLOSER, BULLET, WIDE = (1 << bit for bit in range(8))
"""White space; letter; letter, digit or `_`; ends a line; ends a sentence; may follow that; bullet; ends one without a space."""

SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space. `str.isspace` has the four separators of ASCII (U+001C to U+001F) besides."""
STOPS: Final = ".?!…\u3002\uff01\uff1f\u061f\u06d4\u0964"  # the full stop and the marks of Chinese, Arabic, Urdu, Hindi too
WIDE_STOPS: Final = "\u3002\uff01\uff1f"
QUOTES: Final = "\"'\u2019\u201d»"
CLOSERS: Final = QUOTES + ")]}\u300d\u300f\uff09"
BULLETS: Final = "•‣◦▪●·"
ALL: Final = 0x110000


@cache
def flags() -> NDArray[np.uint8]:
    """The flags of every code point, shape (0x110000,)."""
    single = np.arange(ALL, dtype=np.uint32).view("<U1")
    table = np.zeros(ALL, np.uint8)
    letters = np.strings.isalpha(single)
    table[letters] |= LETTER
    table[letters | np.strings.isalnum(single)] |= WORD
    named = {SPACES: SPACE, "_": WORD, STOPS + QUOTES: TERMINAL, STOPS: STOP, CLOSERS: CLOSER, BULLETS: BULLET, WIDE_STOPS: WIDE}
    for characters, flag in named.items():
        table[[ord(character) for character in characters]] |= flag
    table.flags.writeable = False
    return table
