"""The tasks of a run after the files are annotated. Each writes one piece, and may run in any process that sees the folder."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from posttrain.filters.engines import Engine
from posttrain.filters.pieces import Pieces
from posttrain.filters.plan import Plan, part_of, save
from posttrain.text.copies import COPY, Records, copies
from posttrain.text.near import clusters, links, verified

RECORDS_AT_ONCE = 8_000_000  # of 16 or 25 bytes, that a task sorts
CANDIDATES_AT_ONCE = 8_000  # documents that a task compares, unless more hang together


def exact_part(plan: Plan, part: int, parts: int) -> int:
    """Find the copies in a part of the fingerprints; returns how many."""
    return save(plan.piece("exact", part), lambda: copies(part_of(plan.pieces("keys", len(plan.files)), "high", part, parts)))


def link_part(plan: Plan, part: int, parts: int, exact_parts: int) -> int:
    """Link the documents with equal band hashes in a part of these; returns how many links there are."""

    def make() -> Records:
        bands = part_of(plan.pieces("bands", len(plan.files)), "hash", part, parts)
        gone = np.sort(_joined(plan, "exact", exact_parts)["number"])
        return links(bands[~np.isin(bands["number"], gone)])

    return save(plan.piece("links", part), make)


def near_part(plan: Plan, part: int) -> int:
    """Compare the documents of some clusters; returns how many are near-duplicates."""
    bands = plan.bands
    assert bands is not None
    fetch = Pieces(plan).texts
    compare = partial(verified, fetch=fetch, bands=bands[0], rows=bands[1], threshold=plan.filtering.dedup.threshold)
    return save(plan.piece("near", part), lambda: compare(np.load(plan.piece("cluster", part))))


def find_repeated(plan: Plan, documents: int, engine: Engine) -> tuple[Records, Records]:
    """Copies and near-duplicates among so many annotated documents, each sorted by number."""
    parts = _parts(documents) if plan.filtering.dedup.exact else 0
    engine.map(exact_part, [(plan, part, parts) for part in range(parts)])
    exact = _joined(plan, "exact", parts)
    if plan.bands is None:
        return exact, np.empty(0, COPY)
    link_parts = _parts(documents * plan.bands[0])
    engine.map(link_part, [(plan, part, link_parts, parts) for part in range(link_parts)])
    pieces = clusters(np.concatenate(plan.pieces("links", link_parts)), CANDIDATES_AT_ONCE)
    for number, piece in enumerate(pieces):
        save(plan.piece("cluster", number), lambda piece=piece: piece)  # type: ignore[misc]
    engine.map(near_part, [(plan, number) for number in range(len(pieces))])
    return exact, _joined(plan, "near", len(pieces))


def _parts(records: int) -> int:
    return max(1, math.ceil(records / RECORDS_AT_ONCE))


def _joined(plan: Plan, name: str, parts: int) -> Records:
    found = np.concatenate([np.empty(0, COPY), *plan.pieces(name, parts)])
    found.sort(order="number")
    return found
