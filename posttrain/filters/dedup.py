"""Exact deduplication across batches: documents that are equal after Unicode, case and white-space folding."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import polars as pl
import xxhash


def fingerprint(text: str) -> bytes:
    """XXH3 (128 bits) of the folded text.

    Folded is NFC, case folding, NFC again (case folding can undo the first), and each run of white space as one space.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return xxhash.xxh3_128_digest(" ".join(folded.split()).encode())


def duplicates(ids: Iterable[str], texts: Iterable[str], eligible: Iterable[bool], seen: dict[bytes, str]) -> pl.Series:
    """The id of the document that each document repeats, or null.

    Only eligible documents (those that no rule rejects) are remembered, so that a document is never dropped in favour of a first
    copy which is dropped itself.

    Args:
        seen: fingerprint → id of the documents kept so far; grows by about 200 bytes per distinct document.
    """
    repeated: list[str | None] = []
    for name, text, remember in zip(ids, texts, eligible, strict=True):
        key = fingerprint(text)
        repeated.append(seen.get(key))
        if remember:
            seen.setdefault(key, name)
    return pl.Series("duplicate_of", repeated, dtype=pl.String)
