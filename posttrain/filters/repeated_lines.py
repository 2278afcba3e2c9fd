"""Lines that a corpus says over and over: counted in a first pass over its files, taken out in the second.

Llama 3 (arXiv 2407.21783, section 3.1.1), after ccNet (arXiv 1911.00359), removes every line that stands more than 6 times in a
bucket of 30 million documents, wherever it stands. A bucket is a range of a hash of the document, so that which documents share
one depends neither on the files nor on their order; a corpus of fewer documents is one bucket. Lines are equal where they are
without the white space at their ends. Blank lines are none.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.documents import batches, checked
from posttrain.filters.engines import Engine
from posttrain.filters.kernels.repeated import drop_marked, hash_lines
from posttrain.filters.plan import Plan, part_of, parts_of, save, unless_there
from posttrain.filters.runs import Runs
from posttrain.runtime.writing import write_atomically
from posttrain.text.buffers import Buffers, buffers
from posttrain.text.copies import Records
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.text import NEWLINE, Hashes, Places
from schemas.errors import Refusal

BUCKET: Final = 30_000_000  # documents
RANGES: Final = 256  # of hashes of documents, which buckets are made of
LINE: Final = np.dtype([("hash", "<u8"), ("range", "<u4"), ("count", "<u4")])
LINES: Final = "repeated-lines.npz"
RULE: Final = "max_repeats"


class Lines(NamedTuple):
    """The lines of some documents, in their order."""

    hashes: Hashes
    counts: Places
    """Of each document, shape (documents,)."""
    ranges: Places
    """Of each document, shape (documents,)."""


def lines_of(texts: Buffers) -> Lines:
    """Their lines without the blank ones."""
    room = np.count_nonzero(texts.data[texts.offsets[0] : texts.offsets[-1]] == NEWLINE) + texts.documents
    hashes, counts = np.empty(room, np.uint64), np.zeros(texts.documents, np.int64)
    prints = np.zeros(texts.documents, np.uint64)
    found = hash_lines(texts.data, texts.offsets, flags(), hashes, counts, prints)
    return Lines(hashes[:found], counts, (prints >> np.uint64(56)).astype(np.int64))


def find_lines(plan: Plan, engine: Engine) -> None:
    """Write which lines stand too often, where a rule asks and unless it is known."""
    if plan.filtering.resolved_lines().max_repeats is None:
        return
    counts = engine.map(count_file, [(plan, number) for number in range(len(plan.files))])
    buckets = max(1, -(-sum(each["documents"] for each in counts) // BUCKET))
    parts = parts_of(sum(each["lines"] for each in counts))
    engine.map(lines_part, [(plan, part, parts, buckets) for part in range(parts)])
    with unless_there(plan.work / LINES) as scratch:
        if scratch:
            found = np.concatenate(plan.pieces("often", parts))
            found = found[np.argsort(found["range"], kind="stable")]  # the parts are in the order of their hashes
            with scratch.open("wb") as stream:
                np.savez(stream, hashes=found["hash"], ends=np.searchsorted(found["range"], np.arange(buckets), side="right"))


def count_file(plan: Plan, number: int) -> dict[str, int]:
    """Count the lines of a file; returns how many documents it has, and records of lines."""
    done = plan.piece("counted", number, "json")
    if not done.exists():
        runs, documents = Runs(plan, "lines", number, "hash"), 0
        try:
            for batch in batches(plan.files[number]):
                whole = checked(batch, plan.files[number].name).texts
                documents += len(whole)
                runs.add(_counted(lines_of(buffers(whole))))
        except Refusal:
            pass  # `annotate_file` comes to the same place, and says so with the rows that cannot be read
        runs.end()
        write_atomically(done, json.dumps({"documents": documents, "lines": runs.count}))
    found: dict[str, int] = json.loads(done.read_text())
    return found


def lines_part(plan: Plan, part: int, parts: int, buckets: int) -> int:
    """Find the lines that stand too often in a bucket, in a part of the hashes; `range` is the bucket. Returns how many."""
    most = plan.filtering.resolved_lines().max_repeats
    assert most is not None

    def make() -> Records:
        found = part_of(plan.runs("lines"), "hash", part, parts)
        found["range"] = _bucket(found["range"], buckets)
        total = _summed(found)
        return total[total["count"] > most]

    return save(plan.piece("often", part), make)


def _counted(lines: Lines) -> Records:
    found = np.ones(len(lines.hashes), LINE)
    found["hash"], found["range"] = lines.hashes, np.repeat(lines.ranges, lines.counts)
    return _summed(found)


def _summed(found: Records) -> Records:
    """One record for each hash and range, sorted by them."""
    found = found[np.lexsort((found["range"], found["hash"]))]
    new = np.ones(len(found), bool)
    new[1:] = (found["hash"][1:] != found["hash"][:-1]) | (found["range"][1:] != found["range"][:-1])
    total = found[new]
    if len(total):
        total["count"] = np.add.reduceat(found["count"], np.flatnonzero(new))
    return total


def _bucket(ranges: NDArray[np.integer], buckets: int) -> NDArray[np.int64]:
    return ranges.astype(np.int64) * buckets // RANGES


def load(folder: Path) -> tuple[Hashes, ...]:
    """Which lines go in each bucket, sorted; none where no rule asked."""
    path = folder / LINES
    return _load(path, path.stat().st_mtime_ns) if path.exists() else ()


@lru_cache(maxsize=2)
def _load(path: Path, written: int) -> tuple[Hashes, ...]:
    with np.load(path) as found:
        return tuple(np.split(found["hashes"], found["ends"][:-1]))


def without(texts: Buffers, often: tuple[Hashes, ...]) -> tuple[Buffers, Places]:
    """The documents without the lines that go, and how many went of each; where none did, the same documents."""
    if not any(map(len, often)):
        return texts, np.zeros(texts.documents, np.int64)
    lines = lines_of(texts)
    marked, of = np.zeros(len(lines.hashes), bool), np.repeat(_bucket(lines.ranges, len(often)), lines.counts)
    for bucket, known in enumerate(often):
        some = np.flatnonzero(of == bucket)
        places = np.searchsorted(known, lines.hashes[some])
        marked[some] = known[np.minimum(places, max(len(known) - 1, 0))] == lines.hashes[some] if len(known) else False
    if not marked.any():
        return texts, np.zeros(texts.documents, np.int64)
    out, offsets = np.empty(int(texts.offsets[-1] - texts.offsets[0]), np.uint8), np.zeros(texts.documents + 1, np.int64)
    used = drop_marked(texts.data, texts.offsets, flags(), marked, out, offsets[1:])
    gone = np.add.reduceat(np.append(marked, False), np.cumsum(lines.counts) - lines.counts, dtype=np.int64)
    return Buffers(out[:used], offsets), np.where(lines.counts > 0, gone, 0)
