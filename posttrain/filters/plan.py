"""A filter run as its tasks see it: what is decided, where the pieces lie, and how a piece appears whole or not at all.

    OUT/.checkpoint/plan.json              of what run the pieces are
    OUT/.checkpoint/documents-00000.arrow  the documents of a file with their metrics; also quarantine, done
    OUT/.checkpoint/keys-00000-00000.npy   fingerprints of some documents of a file, sorted; also bands, urls, lines
    OUT/.checkpoint/earlier.json           which parts of `dedup.against` this run looks at
    OUT/.checkpoint/evaluation.npz         what all tasks read: evaluation sets; also quality.npy, repeated-lines.npz
    OUT/.checkpoint/exact-00000.npy        copies in a part of the fingerprints
    OUT/.checkpoint/links-00000.npy        candidates in a part of the band hashes
    OUT/.checkpoint/near-00000.npy         verified near-duplicates among some clusters of candidates

A task writes its pieces beside their place and renames them; `done` or the piece itself comes last. What is there is not made
again, so a run that was killed goes on, and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from posttrain.data.sources import SourceFile
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.trees import remove
from posttrain.runtime.writing import replacing, write_atomically
from schemas.filtering import Filtering

RECORDS_AT_ONCE = 2_000_000  # of 16 or 25 bytes, that a task sorts
FILE_BITS = 40  # of a document's number are its row, the ones above them its file
VERSION = 6  # of the pieces: raise it when their content changes


@dataclass(frozen=True)
class Plan:
    """What every task of a run is given."""

    files: tuple[SourceFile, ...]
    filtering: Filtering
    holdout: float
    """Share of the kept documents whose split is "holdout"."""
    work: Path
    """Folder of the pieces, which all tasks can reach."""
    threads: int
    """Of a task; only kernels run at the same time."""
    given: tuple[str, ...] = ()
    """Digests of what the filter reads besides the files: good documents, evaluation sets, models, what earlier runs kept."""

    @property
    def bands(self) -> tuple[int, int] | None:
        """Bands and rows of the MinHash, where near-duplicates are looked for."""
        return bands_and_rows(self.filtering)

    def piece(self, name: str, number: int = 0, suffix: str = "npy") -> Path:
        """Where a piece lies."""
        return self.work / f"{name}-{number:05d}.{suffix}"

    @property
    def earlier(self) -> tuple[Path, ...]:
        """Parts of `dedup.against` that were there when this run first asked."""
        told = self.work / "earlier.json"
        return tuple(map(Path, json.loads(told.read_text()))) if told.is_file() else ()

    def records(self, name: str) -> list[NDArray[Any]]:
        """Arrays of all files, and of what earlier runs kept, mapped into memory."""
        before = [np.load(part / f"{name}.npy", mmap_mode="r") for part in self.earlier]
        return [*self.runs(name), *before]

    def runs(self, name: str) -> list[NDArray[Any]]:
        """The sorted runs of all files (`runs.Runs`), mapped into memory."""
        return [np.load(path, mmap_mode="r") for path in sorted(self.work.glob(f"{name}-?????-*.npy"))]

    def pieces(self, name: str, count: int) -> list[NDArray[Any]]:
        """Arrays of the pieces 0 to count - 1, mapped into memory."""
        return [np.load(self.piece(name, number), mmap_mode="r") for number in range(count)]

    def identity(self) -> str:
        """Digest of all that decides the pieces: the files as they are now, and the rules."""
        files = [(file.name, file.url, file.split, *state(file.url)) for file in self.files]
        told = json.dumps([VERSION, files, self.given, self.holdout, self.filtering.document()], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def take_up(self) -> None:
        """Make the folder of the pieces, emptied where they are those of another run."""
        identity = self.work / "plan.json"
        wanted = json.dumps({"identity": self.identity()})
        if not identity.is_file() or identity.read_text() != wanted:
            remove(self.work)
            self.work.mkdir(parents=True)
            write_atomically(identity, wanted)


def bands_and_rows(filtering: Filtering) -> tuple[int, int] | None:
    """Bands and rows of the MinHash, where near-duplicates are looked for."""
    if filtering.dedup.near is None:
        return None
    bands, rows = map(int, filtering.dedup.near.split("x"))
    return bands, rows


def work_folder(out: Path) -> Path:
    """Where the pieces of a run lie; a stage of the store leaves this folder alone when it resumes."""
    return out / CHECKPOINT


def state(url: str) -> tuple[int, int]:
    """Bytes of a file, and when it was changed, in nanoseconds, where that is known."""
    if os.path.exists(url):
        found = os.stat(url)
        return found.st_size, found.st_mtime_ns
    filesystem, path = fsspec.url_to_fs(url)
    return int(filesystem.size(path) or 0), 0


@contextmanager
def unless_there(path: Path) -> Iterator[Path | None]:
    """Where to write a piece, or None where it exists."""
    if path.exists():
        yield None
        return
    with replacing(path) as scratch:
        yield scratch


def save(path: Path, make: Callable[[], NDArray[Any]]) -> int:
    """Write an array unless it exists; returns its length."""
    with unless_there(path) as scratch:
        if scratch:
            with scratch.open("wb") as stream:
                np.save(stream, make())
    return len(np.load(path, mmap_mode="r"))


def parts_of(records: int) -> int:
    """In how many parts so many records are sorted."""
    return max(1, math.ceil(records / RECORDS_AT_ONCE))


def part_of(pieces: Sequence[NDArray[Any]], field: str, part: int, parts: int) -> NDArray[Any]:
    """The rows whose 64-bit hash lies in one of so many equal ranges, of pieces that are sorted by it; only they are read."""
    bounds = [np.uint64(min(at * 2**64 // parts, 2**64 - 1)) for at in (part, part + 1)]
    found = []
    for piece in pieces:
        start = np.searchsorted(piece[field], bounds[0])
        end = len(piece) if part == parts - 1 else np.searchsorted(piece[field], bounds[1])
        found.append(np.array(piece[start:end]))
    return np.concatenate(found)
