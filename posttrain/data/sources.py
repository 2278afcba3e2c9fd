"""From what a recipe says about an input to the files that are read: path, folder, glob, fsspec URL or generated sample."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem

from posttrain.runtime.trees import Irregular, read_regular
from posttrain.runtime.writing import replacing
from schemas.addresses import opened
from schemas.errors import Refusal, closest
from schemas.reading import AS_READ, Reading

SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json", ".parquet", ".arrow")
SAMPLES: Final = ("corpus", "instructions", "preferences")
SAMPLE_SCHEME: Final = "sample://"
# What `datasets.save_to_disk` and the hub put next to the rows: they end in .json but hold no rows.
SIDECARS: Final = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
CHUNK: Final = 1 << 20
PLACES: Final = "a file, a folder, a glob, an fsspec URL, or sample://" + "|".join(SAMPLES)


@dataclass(frozen=True)
class SourceFile:
    """One input file."""

    name: str
    """Shown in messages and written to quarantine: relative to the folder all files of the source share."""
    url: str
    """What fsspec opens."""
    reading: Reading = AS_READ
    """What the recipe says about its columns."""


def suffix(url: str) -> str | None:
    """The supported suffix of a path or URL (its query left aside), or None."""
    path = _path(url).lower()
    return max((known for known in SUFFIXES if path.endswith(known)), key=len, default=None)


def resolve(source: str, field: str, cache: Path) -> list[SourceFile]:
    """The files of a source, sorted by path.

    Args:
        source: a path, folder, glob, fsspec URL, or ``sample://corpus|instructions|preferences``.
        field: the recipe field that named the source; refusals point at it.
        cache: folder that keeps generated samples in ``samples/``.

    Raises:
        Refusal: when nothing matches, a file is empty, a file, sample or protocol is of an unknown kind, or the address holds a
            secret.
    """
    if source.startswith(SAMPLE_SCHEME):
        source = str(_sample(source.removeprefix(SAMPLE_SCHEME), field, cache))
    try:
        filesystem, path = fsspec.url_to_fs(opened(source, field))
        found = _matches(filesystem, path)
    except (ValueError, ImportError, OSError) as error:
        raise Refusal(
            where=field, found=f"{source!r}, which cannot be opened: {error}", allowed=PLACES, remedy="correct the address"
        ) from error
    if not found:
        raise Refusal(where=field, found=f"nothing at {source!r}", allowed=PLACES, remedy=_nearest(source))
    for name, entry in found.items():
        _acceptable(name, entry, field)
    return [SourceFile(_shown(name, list(found)), _address(filesystem, name)) for name in sorted(found)]


def source_digest(files: Iterable[SourceFile]) -> str:
    """SHA-256 over the contents of the files in order; their names and places do not count."""
    total = hashlib.sha256()
    for file in files:
        one = hashlib.sha256()
        with fsspec.open(file.url, "rb") as stream:
            while chunk := stream.read(CHUNK):
                one.update(chunk)
        total.update(one.digest())  # of digests, so that moving bytes from one file to the next is a change
    return total.hexdigest()


def _sample(name: str, field: str, cache: Path) -> Path:
    """The generated sample's file, written on first use, and again where it is not what was written."""
    if name not in SAMPLES:
        remedy = f"did you mean sample://{near}?" if (near := closest(name, SAMPLES)) else "choose one of these"
        raise Refusal(
            where=field, found=f"sample://{name}", allowed=", ".join(SAMPLE_SCHEME + known for known in SAMPLES), remedy=remedy
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


def _matches(filesystem: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """Path → fsspec entry of every regular file that the address means. A literal name wins over its reading as a glob."""
    if filesystem.isdir(path):
        entries = filesystem.find(path, detail=True)
        return {n: e for n, e in entries.items() if suffix(n) and os.path.basename(n) not in SIDECARS}
    if filesystem.exists(path):
        return {path: filesystem.info(path)}
    entries = filesystem.glob(path, detail=True) if any(c in path for c in "*?[") else {}
    return {name: entry for name, entry in entries.items() if entry["type"] != "directory"}


def _acceptable(name: str, entry: dict[str, Any], field: str) -> None:
    if suffix(name) is None:
        raise Refusal(
            where=field,
            found=f"{name}, a file of an unknown kind",
            allowed=" ".join(SUFFIXES),
            remedy="convert it, or narrow the glob",
        )
    if entry["type"] == "other":
        raise Refusal(
            where=field,
            found=f"{name}, which is a pipe or device",
            allowed="regular files",
            remedy="write the rows to a file first",
        )
    if entry["size"] == 0:
        raise Refusal(
            where=field,
            found=f"{name}, an empty file (0 bytes)",
            allowed="files with at least one row",
            remedy="remove it, or write it again",
        )


def _nearest(source: str) -> str:
    """A remedy that names the most similar neighbour of a local path."""
    relative = f"correct the address; relative paths start at {os.getcwd()}"
    folder, name = os.path.split(os.path.expanduser(source))
    neighbours = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = closest(name, neighbours)
    return f"did you mean {os.path.join(folder, near)}?" if near else relative


def _shown(name: str, names: list[str]) -> str:
    """The name relative to the folder that all names share: the same on every machine."""
    paths = [_path(each) for each in names]
    return os.path.relpath(_path(name), os.path.commonpath([os.path.dirname(path) for path in paths]) or ".")


def _path(address: str) -> str:
    """Path of a file system's name or URL, without query."""
    return urlsplit(address).path if "://" in address else address


def _address(filesystem: AbstractFileSystem, name: str) -> str:
    local = "file" in filesystem.protocol
    return name if local else str(filesystem.unstrip_protocol(name))
