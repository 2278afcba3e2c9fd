"""The tasks of a run after the files are annotated. Each writes one piece, and may run in any process that sees the folder."""

from __future__ import annotations

import math
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from posttrain.filters import divergence
from posttrain.filters.engines import Engine
from posttrain.filters.kept_before import look_at
from posttrain.filters.pieces import Pieces
from posttrain.filters.plan import Plan, part_of, parts_of, save
from posttrain.filters.urls import older
from posttrain.text.buffers import buffers
from posttrain.text.copies import COPY, Records, copies
from posttrain.text.kernels.folding import fold
from posttrain.text.near import clusters, joined, links, verified

CANDIDATES_AT_ONCE = 8_000  # documents that a task compares, unless more hang together
VALUE: Final = np.dtype([("number", "<i8"), ("value", "<f8")])


class Repeated(NamedTuple):
    """What is known of documents only once all are annotated; records are sorted by number."""

    older: Records
    """Documents whose address a newer one has, `copies.COPY`."""
    exact: Records
    """Copies, likewise."""
    near: Records
    """Near-duplicates, likewise."""
    divergence: Records
    """How far each document is from the corpus, VALUE; empty where this was not asked."""
    limit: float
    """The largest divergence that is kept."""


def divergence_part(plan: Plan, file: int) -> int:
    """Compare the documents of a file with the corpus; returns how many."""
    corpus = np.load(plan.piece("corpus"))

    def make() -> Records:
        found = [np.empty(0, VALUE)]
        for table in Pieces(plan).tables_of(file):
            texts = buffers(table["text"].combine_chunks())
            found.append(np.empty(len(table), VALUE))
            found[-1]["number"], found[-1]["value"] = table["number"].to_numpy(), divergence.compared(fold(*texts), corpus)
        return np.concatenate(found)

    return save(plan.piece("divergence", file), make)


def url_part(plan: Plan, part: int, parts: int) -> int:
    """Find the documents whose address a newer one has, in a part of the addresses; returns how many."""
    return save(plan.piece("older", part), lambda: older(part_of(plan.runs("urls"), "high", part, parts)))


def exact_part(plan: Plan, part: int, parts: int) -> int:
    """Find the copies in a part of the fingerprints; returns how many."""

    def make() -> Records:
        found = part_of(plan.records("keys"), "high", part, parts)
        found["passes"] &= ~np.isin(found["number"], np.load(plan.piece("late")))
        repeated = copies(found)
        return repeated[repeated["number"] >= 0]

    return save(plan.piece("exact", part), make)


def link_part(plan: Plan, part: int, parts: int, exact_parts: int) -> int:
    """Link the documents with equal band hashes in a part of these; returns how many links there are."""

    def make() -> Records:
        bands = part_of(plan.records("bands"), "hash", part, parts)
        gone = np.union1d(_joined(plan, "exact", exact_parts)["number"], np.load(plan.piece("late")))
        return links(bands[~np.isin(bands["number"], gone)])

    return save(plan.piece("links", part), make)


def near_part(plan: Plan, part: int) -> int:
    """Compare the documents of some clusters; returns how many are near-duplicates."""
    bands = plan.bands
    assert bands is not None
    fetch = Pieces(plan).texts
    compare = partial(verified, fetch=fetch, bands=bands[0], rows=bands[1], threshold=plan.filtering.dedup.threshold)
    return save(plan.piece("near", part), lambda: compare(np.load(plan.piece("cluster", part))))


def find_repeated(plan: Plan, documents: int, engine: Engine) -> Repeated:
    """What so many annotated documents repeat, and which of them are unlike the corpus.

    A document that is out for its address or its divergence stands for no other.
    """
    look_at(plan)
    values = _diverging(plan, engine)
    limit = limit_of(values, plan)
    by_url = _by_url(plan, documents, engine)
    outliers = values["number"][values["value"] > limit]
    save(plan.piece("late"), lambda: np.union1d(by_url["number"], outliers).astype(np.int64))
    total = documents + sum(len(np.load(part / "keys.npy", mmap_mode="r")) for part in plan.earlier)
    parts = parts_of(total) if plan.filtering.dedup.exact else 0
    engine.map(exact_part, [(plan, part, parts) for part in range(parts)])
    near = _near(plan, total, parts, engine) if plan.bands else np.empty(0, COPY)
    return Repeated(by_url, _joined(plan, "exact", parts), near, values, limit)


def limit_of(values: Records, plan: Plan) -> float:
    """The largest divergence that is kept; none is too large where this is not asked."""
    asked = plan.filtering.divergence
    return divergence.limit(values["value"], asked.percentile) if asked else math.inf


def _diverging(plan: Plan, engine: Engine) -> Records:
    if plan.filtering.divergence is None:
        return np.empty(0, VALUE)
    save(plan.piece("corpus"), lambda: sum(plan.pieces("words", len(plan.files)), divergence.none_counted()))
    engine.map(divergence_part, [(plan, file) for file in range(len(plan.files))])
    return np.concatenate([np.empty(0, VALUE), *plan.pieces("divergence", len(plan.files))])


def _by_url(plan: Plan, documents: int, engine: Engine) -> Records:
    parts = parts_of(documents) if plan.filtering.dedup.url else 0
    engine.map(url_part, [(plan, part, parts) for part in range(parts)])
    return _joined(plan, "older", parts)


def _near(plan: Plan, documents: int, exact_parts: int, engine: Engine) -> Records:
    assert plan.bands
    link_parts = parts_of(documents * plan.bands[0])
    engine.map(link_part, [(plan, part, link_parts, exact_parts) for part in range(link_parts)])
    pieces = clusters(joined(plan.pieces("links", link_parts)), CANDIDATES_AT_ONCE)
    for number, piece in enumerate(pieces):
        save(plan.piece("cluster", number), lambda piece=piece: piece)  # type: ignore[misc]
    engine.map(near_part, [(plan, number) for number in range(len(pieces))])
    return _joined(plan, "near", len(pieces))


def _joined(plan: Plan, name: str, parts: int) -> Records:
    found = np.concatenate([np.empty(0, COPY), *plan.pieces(name, parts)])
    found.sort(order="number")
    return found
