"""Near-duplicates: MinHash finds candidates; a document goes only where its exact Jaccard index with a kept one is high enough.

Candidates form chains: A is like B, and B like C, but C may be unlike A. So components only say which documents have to be looked
at together. Within one, documents are taken in their order; each is compared with the kept ones that share a band with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.text import plain
from posttrain.text.buffers import Buffers
from posttrain.text.copies import COPY, Records
from posttrain.text.kernels import minhash
from posttrain.text.kernels.compiling import COMPILED, kernel
from posttrain.text.kernels.folding import Folded, fold
from posttrain.text.kernels.text import Places

BAND = np.dtype([("hash", "<u8"), ("number", "<i8")])
LINK = np.dtype([("first", "<i8"), ("other", "<i8")])
AT_ONCE = 2_000  # documents whose texts are in memory

Fetch = Callable[[Places], Buffers]
"""The texts of some documents, by number."""


def band_hashes(folded: Folded, bands: int, rows: int) -> NDArray[np.uint64]:
    """The band hashes of some texts, shape (documents, bands); zeros for an empty one."""
    if not COMPILED:
        each = [plain.bands(text, bands, rows) for text in folded.texts()]
        return np.array(each, np.uint64).reshape(len(each), bands)
    out = np.empty((len(folded.starts), bands), np.uint64)
    minhash.bands(folded.data, folded.starts, folded.ends, *minhash.permutations(bands * rows), out)
    return out


def band_records(hashes: NDArray[np.uint64], numbers: Places) -> Records:
    """One record for each band of each document, sorted by hash; none for empty documents."""
    found = np.empty(hashes.size, BAND)
    found["hash"], found["number"] = hashes.ravel(), np.repeat(numbers, hashes.shape[1])
    some: Records = found[found["hash"] != 0]
    some.sort(order=["hash", "number"])
    return some


def links(found: Records) -> Records:
    """Links that join the documents with the same band hash (`forest`)."""
    found = found[np.lexsort((found["number"], found["hash"]))]
    new = np.ones(len(found), bool)
    new[1:] = found["hash"][1:] != found["hash"][:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(found)), 0))
    result = np.empty(int((~new).sum()), LINK)
    result["first"], result["other"] = found["number"][first[~new]], found["number"][~new]
    return forest(result)


def forest(found: Records) -> Records:
    """The fewest links that join the same documents: the smallest number of a component beside each of its others.

    A document has a link for each band that it shares, so that all links of a corpus are many times as many as its documents.
    """
    numbers, parents = _roots(found)
    inner = np.flatnonzero(parents != np.arange(len(parents)))
    result = np.empty(len(inner), LINK)
    result["first"], result["other"] = numbers[parents[inner]], numbers[inner]
    return result


def _roots(found: Records) -> tuple[Places, Places]:
    """The linked numbers, sorted, and for each the place of the smallest number of its component."""
    numbers, places = np.unique(np.concatenate([found["first"], found["other"]]), return_inverse=True)
    parents = np.arange(len(numbers))
    _join(places[: len(found)], places[len(found) :], parents)
    return numbers, parents


def joined(pieces: Iterable[Records]) -> Records:
    """The `forest` of the links in all pieces, of which one is in memory at a time."""
    return reduce(lambda known, piece: forest(np.concatenate([known, piece])), pieces, np.empty(0, LINK))


def clusters(found: Records, at_least: int) -> list[Places]:
    """Numbers of linked documents, whole components together, in pieces of `at_least` documents where there are so many.

    Args:
        found: all links, shape (links,).

    Returns:
        Sorted numbers; components in the order of their smallest number.
    """
    numbers, parents = _roots(found)
    order = np.argsort(parents, kind="stable")
    last = np.append(parents[order][1:] != parents[order][:-1], True)[: len(order)]  # of its component
    pieces, start = [], 0
    for end in (np.flatnonzero(last) + 1).tolist():
        if end - start >= at_least or end == len(order):
            pieces.append(np.sort(numbers[order[start:end]]))
            start = end
    return pieces


@kernel
def _join(ones: Places, others: Places, parents: Places) -> None:
    """Union-find in which the smallest of a component is its root; afterwards `parents` holds the roots."""
    for at in range(len(ones)):
        one, other = ones[at], others[at]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        parents[max(one, other)] = min(one, other)
    for at in range(len(parents)):
        parents[at] = parents[parents[at]]  # a parent is smaller, so its root is known by now


def verified(numbers: Places, fetch: Fetch, bands: int, rows: int, threshold: float) -> Records:
    """Near-duplicates among some candidates, sorted by number: each with the earliest kept document that it repeats.

    Args:
        numbers: whole components, sorted; those below 0 were kept by an earlier run, and stay.
        fetch: gives the texts of the numbers that it is asked for.
    """
    kept: dict[int, NDArray[np.uint64]] = {}
    with_band: defaultdict[int, list[int]] = defaultdict(list)
    found: list[tuple[int, int, float]] = []
    for number, shingles, hashes in _candidates(numbers, fetch, bands, rows):
        rivals = sorted({rival for band in hashes for rival in with_band[band]})
        like = ((rival, minhash.jaccard(shingles, kept[rival])) for rival in rivals)
        if number >= 0 and (repeated := next((pair for pair in like if pair[1] >= threshold), None)):
            found.append((number, *repeated))
            continue
        kept[number] = shingles
        for band in hashes:
            with_band[band].append(number)
    return np.array(found, COPY)


def _candidates(numbers: Places, fetch: Fetch, bands: int, rows: int) -> Iterator[tuple[int, NDArray[np.uint64], list[Any]]]:
    """Number, sorted set of shingles and band hashes of each document, in order."""
    for at in range(0, len(numbers), AT_ONCE):
        some = numbers[at : at + AT_ONCE]
        texts = fetch(some)
        folded = fold(texts.data, texts.offsets)
        hashes = band_hashes(folded, bands, rows).tolist()
        for at_text, (number, own) in enumerate(zip(some.tolist(), hashes, strict=True)):
            yield number, _set(_shingles(folded, at_text)), own


def _set(found: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted, each once; `np.unique` asks a hash table first, which takes three times as long for so few."""
    ordered = np.sort(found)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def shingles_of(folded: Folded) -> tuple[NDArray[np.uint64], Places]:
    """64-bit hashes of the 5-grams of all texts, one text after the other and each in its order, and how many each text has."""
    if not COMPILED:
        sets = [_shingles(folded, at) for at in range(len(folded.starts))]
        return np.concatenate([np.empty(0, np.uint64), *sets]), np.array([len(each) for each in sets], np.int64)
    lengths = np.empty(len(folded.starts), np.int64)
    found = np.empty(int((folded.ends - folded.starts).sum()) // 2 + len(lengths), np.uint64)
    return found[: minhash.all_shingles(folded.data, folded.starts, folded.ends, lengths, found)], lengths


def _shingles(folded: Folded, at: int) -> NDArray[np.uint64]:
    """64-bit hashes of the 5-grams of one text."""
    data, start, end = folded.data, folded.starts[at], folded.ends[at]
    return minhash.shingles(data, start, end) if COMPILED else plain.shingles(data[start:end].tobytes())
