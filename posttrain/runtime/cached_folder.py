"""Folders of a cache: made whole or not at all, and trusted only while they hold what was put there.

FOLDER         what was made
FOLDER.json    its manifest: size and SHA-256 of every file
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter

from posttrain.runtime.integrity import file_digest
from posttrain.runtime.locks import locked
from posttrain.runtime.trees import Irregular, contents, read_regular, remove
from posttrain.runtime.writing import write_atomically
from schemas.results import FileEntry

Manifest = TypeAdapter(dict[str, FileEntry])
_seen: dict[Path, list[tuple[str, int, int, int]]] = {}  # as they were when this process last took their digests


def cached_folder(folder: Path, make: Callable[[Path], Path]) -> Path:
    """The folder, made anew when there is none, or when it is not what its manifest says; others that need it wait.

    A folder without a manifest, as older versions left them, is made anew too: it costs a copy, and nobody knows what is in it.

    Args:
        folder: in the cache.
        make: is given an empty folder, and returns the one in it, or itself, that is to be kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if is_intact(folder):
        return folder
    with locked(Path(f"{folder}.lock")):
        if not is_intact(folder):
            _make(folder, make)
    return folder


def _make(folder: Path, make: Callable[[Path], Path]) -> None:
    record = _record(folder)
    for left in (folder, record, *folder.parent.glob(f".{folder.name}.*.partial")):  # the last of attempts that were killed
        remove(left)
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    scratch.mkdir()
    try:
        whole = make(scratch)
        files, _ = contents(whole)
        manifest = {str(path.relative_to(whole)): FileEntry(size=path.stat().st_size, sha256=file_digest(path)) for path in files}
        os.replace(whole, folder)
        write_atomically(record, Manifest.dump_json(manifest, indent=1))
    finally:
        remove(scratch)


def is_intact(folder: Path) -> bool:
    """Whether a folder of a cache holds the files of its manifest and no others; digests are taken once in this process."""
    try:
        manifest = Manifest.validate_json(read_regular(_record(folder)))
        files, _ = contents(folder)
        if {str(path.relative_to(folder)) for path in files} != manifest.keys():
            return False
        now = [(str(path), (found := path.stat()).st_size, found.st_mtime_ns, found.st_ino) for path in files]
        if _seen.get(folder) != now:
            if any(file_digest(folder / name) != entry.sha256 for name, entry in manifest.items()):
                return False
            _seen[folder] = now
    except (OSError, ValueError, Irregular):
        return False
    return True


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
