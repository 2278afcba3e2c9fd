"""A list of words and phrases, and how many of a document's words stand in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.filters.kernels.bins import known_words
from posttrain.text.buffers import buffers
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.folding import Folded, fold
from posttrain.text.kernels.grams import beginnings, runs, words
from posttrain.text.kernels.text import Hashes, powers_of_base
from schemas.errors import Refusal

MOST = 16 << 20  # bytes of a list


@cache
def read_words(path: Path) -> tuple[Hashes, int]:
    """Sorted hashes of the words and phrases of a file, one on each line, and the words of the longest.

    Raises:
        Refusal: when the file is no list of words.
    """
    try:
        if path.stat().st_size > MOST:
            raise ValueError(f"{path.stat().st_size} bytes")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise Refusal(
            where="filtering.dirty_words.words", found=f"{path}: {error}", allowed="a text file (UTF-8), a word on each line",
            remedy="name such a file",
        ) from error  # fmt: skip
    found, longest = [np.empty(0, np.uint64)], 0
    folded = fold(*buffers(pa.array([line for line in lines if line], pa.large_string())))
    for start, end in zip(folded.starts.tolist(), folded.ends.tolist(), strict=True):
        own, prefix = np.empty(end - start + 1, np.uint64), np.empty(end - start + 2, np.uint64)
        count = words(folded.data, start, end, flags(), own)
        if count:
            beginnings(own, count, prefix)
            whole = np.empty(1, np.uint64)
            runs(prefix, powers_of_base(count + 1), count, count, whole)
            found.append(whole)
            longest = max(longest, count)
    return np.unique(np.concatenate(found)), longest


def share_of_words(folded: Folded, path: Path) -> NDArray[np.float64]:
    """Share of the words of each text that stand in the list, shape (documents,)."""
    known, longest = read_words(path)
    out = np.zeros(len(folded.starts))
    known_words(folded.data, folded.starts, folded.ends, flags(), known, longest, powers_of_base(longest + 1), out)
    return out
