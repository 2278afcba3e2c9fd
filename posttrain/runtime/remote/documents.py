"""Small documents by which the processes of a run tell each other where they are: files of the store, or objects of its bucket.

They are named by the path that they have in the store's folder, also where that is a local copy of a bucket, and then lie in the
bucket alone.
"""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from pathlib import Path

from posttrain.runtime.remote.bucket import Bucket
from posttrain.runtime.remote.place import bucket_of
from posttrain.runtime.trees import DOCUMENT_BYTES, Irregular, read_regular
from posttrain.runtime.writing import write_atomically

DEPTH = 3  # folders of a store above a document


def read(path: Path, limit: int = DOCUMENT_BYTES) -> bytes | None:
    """A document; None where there is none, or what is there is no regular file of at most `limit` bytes."""
    if remote := _remote(path):
        bucket, name = remote
        found = bucket.read(name)
        return found.content if found and len(found.content) <= limit else None
    try:
        return read_regular(path, limit)
    except (OSError, Irregular):
        return None


def write(path: Path, content: str) -> None:
    """Write a document, as a whole or not at all."""
    if remote := _remote(path):
        bucket, name = remote
        bucket.write(name, content.encode())
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def remove(path: Path) -> None:
    """Remove a document; nothing where there is none."""
    if remote := _remote(path):
        bucket, name = remote
        bucket.delete([name])
    else:
        path.unlink(missing_ok=True)


def age(path: Path) -> float | None:
    """Seconds since a document was written, by the clock of what keeps it, or None where there is none."""
    if remote := _remote(path):
        bucket, name = remote
        found = bucket.read(name)
        return found.age if found else None
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None


def matching(folder: Path, pattern: str) -> list[Path]:
    """Documents in a folder and in the folders in it whose own names are like `pattern`."""
    if remote := _remote(folder / pattern):
        bucket, below = remote[0], remote[1].removesuffix(pattern)
        names = [name.removeprefix(below) for name, _ in bucket.names(below)]
        return [folder / name for name in names if name.count("/") <= 1 and fnmatchcase(name.rpartition("/")[2], pattern)]
    return [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]


def _remote(path: Path) -> tuple[Bucket, str] | None:
    """The bucket in which a document lies, and its name there."""
    for root in path.parents[:DEPTH]:
        if bucket := bucket_of(root):
            return bucket, path.relative_to(root).as_posix()
    return None
