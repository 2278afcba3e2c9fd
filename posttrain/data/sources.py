"""From what a recipe says about an input to the files that are read: path, folder, glob, fsspec URL, hub or generated sample."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec import AbstractFileSystem

from posttrain.data.source_files import (
    COMPRESSED,
    FORMATS,
    NAMED,
    kind_of,
    label_of,
    missing_note,
    path_of,
    shown,
    side_of,
    skipped_note,
    why_skipped,
)
from posttrain.runtime.trees import Irregular, read_regular
from posttrain.runtime.writing import replacing
from schemas.addresses import opened
from schemas.errors import Refusal, closest
from schemas.reading import AS_READ, Reading
from schemas.sources import HUB_SCHEME, DataSource, Sources, listed

__all__ = ["SAMPLES", "SAMPLE_SCHEME", "SourceFile", "kind_of", "resolve", "source_digest"]

SAMPLES: Final = (
    "corpus", "instructions", "preferences", "arithmetic_corpus", "arithmetic_instructions", "arithmetic_prompts",
)  # fmt: skip
SAMPLE_SCHEME: Final = "sample://"
CHUNK: Final = 1 << 20
PLACES: Final = f"a file, a folder, a glob, an fsspec URL, {HUB_SCHEME}NAME, or sample://" + "|".join(SAMPLES)
KINDS: Final = f"{' '.join(FORMATS)}, each also with {' '.join(COMPRESSED[1:])}"


@dataclass(frozen=True)
class SourceFile:
    """One input file."""

    name: str
    """Shown in messages and written to quarantine: relative to the folder all files of the source share."""
    url: str
    """What fsspec opens."""
    split: str | None = None
    """`train` or `holdout`, where its name or the recipe says so; rows of others are held out by the hash of their prompts."""
    group: int = 0
    """Which source of its data set it belongs to, from 0."""
    weight: float | None = None
    """Of its source among the others."""
    identity: str | None = None
    """What decides its bytes where that is known without reading them: a file of one commit of the hub."""
    reading: Reading = AS_READ
    """What the recipe says about its columns."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a person should know about where it is from, a sentence each."""


def resolve(sources: Sources, where: str, cache: Path) -> list[SourceFile]:
    """The files of a data set: source after source, each sorted by path.

    A file whose name says test or validation is held out. One whose name says train is training data where another is held
    out; where none is, its rows are split by hash like all others.

    Args:
        sources: an address, a source, or a list of both.
        where: the recipe field that named them; refusals point at it.
        cache: folder that keeps generated samples in ``samples/``.

    Raises:
        Refusal: when nothing matches, a file is empty, a file, sample or protocol is of an unknown kind, or the address holds a
            secret.
    """
    every = listed(sources)
    found = [_files_of(source, f"{where}.{at}" if len(every) > 1 else where, cache) for at, source in enumerate(every)]
    if len(every) > 1:
        found = [_prefixed(files, label) for files, label in zip(found, _labels(every), strict=True)]
    files = [
        replace(file, group=at, weight=every[at].weight, reading=every[at].reading)
        for at, of_source in enumerate(found)
        for file in of_source
    ]
    held = [file.name for file in files if file.split == "holdout"]
    if not held:
        return [replace(file, split=None) for file in files]
    note = f"{where}: {len(held)} of {len(files)} files are held out, as their names say: {', '.join(held[:NAMED])}"
    return [replace(files[0], notes=(*files[0].notes, note)), *files[1:]]


def source_digest(files: Iterable[SourceFile]) -> str:
    """SHA-256 over the contents of the files in order, and what the recipe says of them; their names and places do not count."""
    total = hashlib.sha256()
    for file in files:
        total.update(_digest_of(file))  # of digests, so that moving bytes from one file to the next is a change
        said = (file.split, file.group, file.weight)
        if said != (None, 0, None):
            total.update(repr(said).encode())
        if file.reading != AS_READ:
            total.update(file.reading.model_dump_json().encode())
    return total.hexdigest()


def _digest_of(file: SourceFile) -> bytes:
    if file.identity is not None:
        return hashlib.sha256(file.identity.encode()).digest()
    one = hashlib.sha256()
    with fsspec.open(file.url, "rb") as stream:
        while chunk := stream.read(CHUNK):
            one.update(chunk)
    return one.digest()


def _files_of(source: DataSource, where: str, cache: Path) -> list[SourceFile]:
    """The files of one source, each with the side that its name or the recipe says."""
    if source.name is not None:
        from posttrain.data.hub import hub_files  # late: the extra `hub` is needed for nothing else

        return [SourceFile(**each._asdict()) for each in hub_files(source, where)]
    address = source.address
    if address.startswith(SAMPLE_SCHEME):
        address = str(_sample(address.removeprefix(SAMPLE_SCHEME), where, cache))
    try:
        filesystem, path = fsspec.url_to_fs(opened(address, where))
        found, skipped = _matches(filesystem, path)
    except Refusal:
        raise
    except Exception as error:  # each of fsspec's file systems, which a recipe may chain, has errors of its own
        raise Refusal(
            where=where, found=f"{address!r}, which cannot be opened: {error}", allowed=PLACES, remedy="correct the address"
        ) from error
    note = skipped_note(source.address, skipped)
    if not found:
        raise Refusal(where=where, found=f"{_nothing(address)}{_unread(note)}", allowed=PLACES, remedy=_nearest(address))
    for name, entry in found.items():
        _acceptable(name, entry, where)
    names = sorted(found)
    files = [SourceFile(shown(name, names), _address(filesystem, name)) for name in names]
    notes = tuple(each for each in (note, missing_note(source.address, names if names != [path] else ())) if each)
    return [replace(each, notes=notes if at == 0 else ()) for at, each in enumerate(_of_splits(files, source, where))]


def _nothing(address: str) -> str:
    return (
        f"no file of rows in the folder {address!r}" if os.path.isdir(os.path.expanduser(address)) else f"nothing at {address!r}"
    )


def _unread(note: str | None) -> str:
    return f" that is read ({note})" if note else ""


def _of_splits(files: list[SourceFile], source: DataSource, where: str) -> list[SourceFile]:
    """The files of the splits that a recipe asks for. Of a single file it says which split that is."""
    labels = {file.name: label_of(file.name) for file in files}
    wanted = source.splits
    if not wanted:
        return [replace(file, split=side_of(labels[file.name])) for file in files]
    if len(files) == 1 and len(wanted) == 1:
        return [replace(files[0], split=side_of(wanted[0]))]
    chosen = [replace(file, split=side_of(labels[file.name])) for file in files if labels[file.name] in wanted]
    if not chosen:
        known = sorted({label for label in labels.values() if label}) or ["none: the names of the files say no split"]
        raise Refusal(
            where=f"{where}.split", found=", ".join(wanted), allowed=", ".join(known), remedy="choose of these, or none"
        )
    return chosen


def _labels(sources: Sequence[DataSource]) -> list[str]:
    """A short name of each source, different from all others."""
    short = [path_of(source.name or source.address.rstrip("/")).rsplit("/", 1)[-1] for source in sources]
    several = Counter(short)
    return [f"{name}#{at}" if several[name] > 1 else name for at, name in enumerate(short)]


def _prefixed(files: list[SourceFile], label: str) -> list[SourceFile]:
    """Files under the name of their source; a source of one file is called as this is."""
    alone = len(files) == 1 and label.split("#")[0] == files[0].name
    return [replace(file, name=label if alone else f"{label}/{file.name}") for file in files]


def _sample(name: str, where: str, cache: Path) -> Path:
    """The generated sample's file, written on first use, and again where it is not what was written."""
    if name not in SAMPLES:
        remedy = f"did you mean sample://{near}?" if (near := closest(name, SAMPLES)) else "choose one of these"
        raise Refusal(
            where=where, found=f"sample://{name}", allowed=", ".join(SAMPLE_SCHEME + known for known in SAMPLES), remedy=remedy
        )
    from posttrain.data import samples  # late: readers of real files need no generator

    path = cache / "samples" / f"{name}-v{samples.VERSION}.jsonl"
    if not _has_digest(path, samples.DIGESTS[name]):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            samples.write_sample(name, scratch)
    return path


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(read_regular(path)).hexdigest() == digest
    except (OSError, Irregular):
        return False


Entries = dict[str, dict[str, Any]]


def _matches(filesystem: AbstractFileSystem, path: str) -> tuple[Entries, dict[str, str]]:
    """Path → fsspec entry of every regular file that the address means, and why others of a folder are no part of it.

    A literal name wins over its reading as a glob.
    """
    if filesystem.isdir(path):
        return _kept(filesystem.find(path, detail=True), path)
    if filesystem.exists(path):
        return {path: filesystem.info(path)}, {}
    entries = filesystem.glob(path, detail=True) if any(c in path for c in "*?[") else {}
    return {name: entry for name, entry in entries.items() if entry["type"] != "directory"}, {}


def _kept(entries: Entries, folder: str) -> tuple[Entries, dict[str, str]]:
    start = path_of(folder).rstrip("/") + "/"
    why = {name: why_skipped(path_of(name).removeprefix(start)) for name in entries}
    kept = {name: entry for name, entry in entries.items() if why[name] is None}
    return kept, {path_of(name).removeprefix(start): reason for name, reason in why.items() if reason}


def _acceptable(name: str, entry: dict[str, Any], where: str) -> None:
    if path_of(name).endswith(".py"):
        raise Refusal(
            where=where,
            found=f"{name}, a script: loading it would run its code",
            allowed="data",
            remedy="run it yourself, and name the files that it writes",
        )
    if not kind_of(name)[0]:
        raise Refusal(
            where=where, found=f"{name}, a file of an unknown kind", allowed=KINDS, remedy="convert it, or narrow the glob"
        )
    if entry["type"] == "other":
        raise Refusal(
            where=where,
            found=f"{name}, which is a link, pipe or device",
            allowed="regular files",
            remedy="write the rows to a file first",
        )
    if entry["size"] == 0:
        raise Refusal(
            where=where,
            found=f"{name}, an empty file (0 bytes)",
            allowed="files with at least one row",
            remedy="remove it, or write it again",
        )


def _nearest(source: str) -> str:
    """A remedy that names the most similar neighbour of a local path."""
    relative = f"correct the address; relative paths start at {os.getcwd()}"
    folder, name = os.path.split(os.path.expanduser(source))
    neighbours = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    if name in neighbours:
        return "put files of these kinds there, or name another folder"
    near = closest(name, neighbours)
    return f"did you mean {os.path.join(folder, near)}?" if near else relative


def _address(filesystem: AbstractFileSystem, name: str) -> str:
    local = "file" in filesystem.protocol
    return name if local else str(filesystem.unstrip_protocol(name))
