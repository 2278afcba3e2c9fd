"""Of documents from one address the newest: the last in the order of the files and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import xxhash
from numpy.typing import NDArray

from posttrain.text.copies import KEY, Records, copies, keys
from posttrain.text.kernels.text import Places


def normal(url: str) -> str:
    """The address without what makes no other page: scheme, user, `www.`, port, fragment, slash at the end, case of the host."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return url.strip()
    query = f"?{parts.query}" if parts.query else ""
    return f"{host}{parts.path.rstrip('/')}{query}" or url.strip()


def url_keys(urls: Sequence[str | None], numbers: Places, passes: NDArray[np.bool_]) -> Records:
    """One record for each document that has an address, with its number negated, so that the newest comes first."""
    some = np.array([bool(url) for url in urls], bool)
    if not some.any():
        return np.empty(0, KEY)
    prints = [xxhash.xxh3_128_digest(normal(url).encode()) for url in urls if url]
    return keys(b"".join(prints), -numbers[some], passes[some])


def older(found: Records) -> Records:
    """Documents whose address a newer one has that passes the rules, sorted by number; `of` is the newest."""
    repeated = copies(found)
    repeated["number"], repeated["of"] = -repeated["number"], -repeated["of"]
    repeated.sort(order="number")
    return repeated
