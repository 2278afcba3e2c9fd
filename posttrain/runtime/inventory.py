"""What a store holds, and which of its results nothing needs any more.

A result is needed when it was used lately, or when a result that is needed was made from it. Callers add the results behind
registered models, which this room does not know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.runtime.integrity import damage, read_result
from posttrain.runtime.locks import locked_if_free
from posttrain.runtime.store import Store, is_key
from posttrain.runtime.trees import Irregular, contents, read_regular, remove
from schemas.recipe import STAGES
from schemas.results import StageResult

Key = tuple[str, str]
"""Stage and key of a result."""
State = Literal["finished", "partial", "unreadable"]


@dataclass(frozen=True)
class Entry:
    """A folder of a stage in a store."""

    stage: str
    key: str
    state: State
    """`partial`: being built, or left by an interrupted attempt. `unreadable`: without a result.json that can be read."""
    size: int
    """Bytes of its files."""
    used: float
    """Seconds since the epoch: when it was last written, or a run that used it ended."""
    inputs: tuple[Key, ...]
    """Results that it was made from."""
    folder: Path

    @property
    def place(self) -> Key:
        """Stage and key."""
        return self.stage, self.key


def inventory(store: Store) -> list[Entry]:
    """Every result and partial result of a store, in the order of the stages, the latest used first."""
    runs = _last_runs(store)
    found = [_entry(stage, folder, runs) for stage in STAGES for folder in _folders(store.root / stage)]
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(found, key=lambda entry: (order[entry.stage], -entry.used, entry.key))


def needed(entries: Collection[Entry], roots: Iterable[Key], since: float) -> set[Key]:
    """The roots, what was used `since` a time, and everything that these were made from."""
    by_place = {entry.place: entry for entry in entries if entry.state == "finished"}
    pending = [*roots, *(entry.place for entry in by_place.values() if entry.used >= since)]
    found: set[Key] = set()
    while pending:
        place = pending.pop()
        if place not in found:
            found.add(place)
            pending += by_place[place].inputs if place in by_place else ()
    return found


def unneeded(entries: Collection[Entry], roots: Iterable[Key], since: float) -> list[Entry]:
    """What may go: results that nothing needs, and partial or unreadable ones that nobody has written to `since` a time."""
    keep = needed(entries, roots, since)
    return [entry for entry in entries if entry.used < since and (entry.state != "finished" or entry.place not in keep)]


def discard(entry: Entry) -> bool:
    """Remove an entry unless a process builds it at this moment; says whether it is gone."""
    with locked_if_free(entry.folder.with_name(f"{entry.key}.lock")) as ours:  # the lock stays: others may wait for it
        if ours:
            remove(entry.folder)
        return ours


def going_on(store: Store) -> list[Path]:
    """Locks that living processes hold: of runs, and of results that are being built."""
    places = [store.root / "runs", *(store.root / stage for stage in STAGES)]
    return [lock for place in places for lock in sorted(place.glob("*.lock")) if _is_held(lock)]


def damaged(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """Finished results that are not what was built, with what is wrong. Reads every byte."""
    for entry in entries:
        result = read_result(entry.folder) if entry.state != "partial" else None
        if entry.state == "unreadable" or (entry.state == "finished" and result is None):
            yield entry, "result.json cannot be read"
        elif result and (wrong := _wrong(entry, result)):
            yield entry, wrong


def _wrong(entry: Entry, result: StageResult) -> str | None:
    if (result.stage, result.key) != entry.place:
        return f"result.json is of {result.stage[:40]} {result.key[:40]}"
    return damage(entry.folder, result)


def _is_held(lock: Path) -> bool:
    with locked_if_free(lock) as ours:
        return not ours


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        names = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    return [place / name for name in sorted(names) if is_key(name.removesuffix(".partial"))]


def _entry(stage: str, folder: Path, runs: Mapping[Key, float]) -> Entry:
    key = folder.name.removesuffix(".partial")
    result = read_result(folder) if folder.name == key else None
    size, written = _size(folder)
    state: State = "partial" if folder.name != key else "finished" if result else "unreadable"
    inputs = tuple((of.name.partition(".")[0], of.location) for of in (result.inputs if result else ()))
    used = max(written, runs.get((stage, key), 0.0) if state == "finished" else 0.0)
    return Entry(stage, key, state, size, used, tuple(each for each in inputs if each[0] in STAGES), folder)


def _size(folder: Path) -> tuple[int, float]:
    """Bytes of the files, and when the last one was written; of a folder with links in it only the latter of itself."""
    try:
        found = [path.stat() for path in contents(folder)[0]]
    except (Irregular, OSError):
        found = []
    return sum(each.st_size for each in found), max((each.st_mtime for each in found), default=folder.stat().st_mtime)


def _last_runs(store: Store) -> dict[Key, float]:
    """When the last run that used a result ended, by the reports of the runs."""
    last: dict[Key, float] = {}
    for report in sorted((store.root / "runs").glob("*/result.json")):
        try:
            ended = report.lstat().st_mtime
            for place in report_places(report):
                last[place] = max(ended, last.get(place, 0.0))
        except (OSError, ValueError, RecursionError):  # not a report of ours: it vouches for nothing
            continue
    return last


def report_places(report: Path) -> list[Key]:
    """Stage and key of each result that a run's report names.

    Raises:
        OSError, ValueError, RecursionError: when it is no report.
    """
    document = json.loads(read_regular(report))
    stages = document.get("stages") if isinstance(document, dict) else None
    named = [each for each in stages if isinstance(each, dict)] if isinstance(stages, list) else []
    places = [(str(each.get("name")), str(each.get("key"))) for each in named]
    return [place for place in places if place[0] in STAGES and is_key(place[1])]
