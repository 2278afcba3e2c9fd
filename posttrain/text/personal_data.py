"""Personal data and secrets in texts, and texts with a placeholder of its kind instead of each.

| kind | is found where |
|---|---|
| email | name@domain with a top-level domain, or with `at` and `dot` in brackets |
| ip | IPv4 and IPv6, valid by `ipaddress`; not loopback, masks, multicast, nor what is a version by its words or small parts |
| phone | libphonenumber takes it for one, or it is written like one, or words before it say so |
| card | a card network's length and first digits, and Luhn's check |
| iban | the country's length and the check modulo 97 |
| secret | keys and tokens by their form (AWS, GitHub, GitLab, JWT, PEM, `sk-`, Slack, Google ...), passwords in addresses |

A compiled pass over the bytes finds the few places that are worth a look; expressions of bounded length look at these alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.text.buffers import Buffers, buffers
from posttrain.text.kernels.hits import CLASSES, COLONS, MAIL, NUMBER, all_hits
from posttrain.text.personal_numbers import numbers, require
from posttrain.text.personal_words import colons, mail, word

__all__ = ["KINDS", "Personal", "counted", "find", "placeholder", "redact", "redact_all", "require"]

KINDS: Final = ("email", "ip", "phone", "card", "iban", "secret")


class Personal(NamedTuple):
    """One finding: its kind, and where it starts and ends, in characters of a text or bytes of UTF-8."""

    kind: str
    start: int
    end: int


def placeholder(kind: str) -> str:
    """What stands for something of a kind."""
    return f"[{kind.upper()}]"


def find(text: str, kinds: Collection[str] = KINDS) -> list[Personal]:
    """Everything personal in a text, in its order; positions are those of characters.

    Raises:
        Refusal: when telephone numbers are asked for and the extra `text` is not installed.
    """
    data = text.encode("utf-8", "surrogatepass")
    found = _find(data, kinds)
    if len(data) == len(text):
        return found
    at = {place: len(data[:place].decode("utf-8", "surrogatepass")) for each in found for place in each[1:]}
    return [Personal(kind, at[start], at[end]) for kind, start, end in found]


def redact(text: str, kinds: Collection[str] = KINDS) -> tuple[str, list[Personal]]:
    """The text with placeholders, and what they stand for; see `find`."""
    found, parts, behind = find(text, kinds), [], 0
    for kind, start, end in found:
        parts += [text[behind:start], placeholder(kind)]
        behind = end
    return "".join([*parts, text[behind:]]), found


def redact_all(texts: Buffers, kinds: Collection[str] = KINDS) -> tuple[Buffers, NDArray[np.int64]]:
    """The same for many documents.

    Returns:
        The documents, and findings by document and kind, shape (documents, len(KINDS)).
    """
    counts = np.zeros((texts.documents, len(KINDS)), np.int64)
    found = _find_all(texts, kinds)
    if not found:
        return texts, counts
    data, parts, shift = texts.data, [], np.zeros(texts.documents, np.int64)
    behind = int(texts.offsets[0])
    for at, some in found.items():
        begin = int(texts.offsets[at])
        for kind, start, end in some:
            parts += [data[behind : begin + start].tobytes(), placeholder(kind).encode()]
            behind = begin + end
            shift[at] += len(parts[-1]) - (end - start)
            counts[at, KINDS.index(kind)] += 1
    parts.append(data[behind : int(texts.offsets[-1])].tobytes())
    offsets = texts.offsets - texts.offsets[0] + np.concatenate([[0], np.cumsum(shift)])
    return Buffers(np.frombuffer(b"".join(parts), np.uint8), offsets), counts


def counted(texts: Buffers, kinds: Collection[str] = KINDS) -> NDArray[np.int64]:
    """Findings by document and kind, shape (documents, len(KINDS)), without the placeholders."""
    counts = np.zeros((texts.documents, len(KINDS)), np.int64)
    for at, some in _find_all(texts, kinds).items():
        for each in some:
            counts[at, KINDS.index(each.kind)] += 1
    return counts


def _find(data: bytes, kinds: Collection[str]) -> list[Personal]:
    return _find_all(buffers(pa.array([data], pa.large_binary())), kinds).get(0, [])


def _find_all(texts: Buffers, kinds: Collection[str]) -> dict[int, list[Personal]]:
    """The findings in each document that has any, positions from its start."""
    require("personal data", kinds)
    # Room for the most there could be; memory is taken where something is written.
    room = int(texts.offsets[-1] - texts.offsets[0]) // 2 + texts.documents + 1
    starts, ends, what = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint8)
    until = np.empty(texts.documents, np.int64)
    all_hits(texts.data, texts.offsets, CLASSES, starts, ends, what, until)
    found: dict[int, list[Personal]] = {}
    for at in np.flatnonzero(np.diff(until, prepend=0)).tolist():
        some = slice(until[at - 1] if at else 0, until[at])
        begin, end = texts.offsets[at : at + 2].tolist()
        places = zip(what[some].tolist(), (starts[some] - begin).tolist(), (ends[some] - begin).tolist(), strict=True)
        if personal := _looked_at(texts.data[begin:end].tobytes(), places, kinds):
            found[at] = personal
    return found


def _looked_at(text: bytes, places: Iterator[tuple[int, int, int]], kinds: Collection[str]) -> list[Personal]:
    found: list[Personal] = []
    for what, start, end in places:
        if found and start < found[-1].end:
            continue
        some = numbers(text, start, end) if what == NUMBER else _BY_HIT.get(what, word)(text, start)
        for each in some:
            while found and each[1] < found[-1].end and each[2] > found[-1].end and each[1] <= found[-1].start:
                found.pop()  # an address that what stood before is a part of
            if not found or each[1] >= found[-1].end:
                found.append(Personal(*each))
    return [each for each in found if each.kind in kinds]


_BY_HIT = {MAIL: mail, COLONS: colons}
