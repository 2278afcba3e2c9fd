"""Checkpoints of a stage that is being built, copied into the bucket meanwhile, so that another machine can go on from there.

STAGE/KEY.partial/files/SHA256       content of a file
STAGE/KEY.partial/checkpoint.json    the manifest of the last checkpoint that is there as a whole: written last
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from posttrain.runtime.integrity import file_digest
from posttrain.runtime.partial import CHECKPOINT, RESUMED
from posttrain.runtime.progress import Progress, current
from posttrain.runtime.remote.bucket import Bucket
from posttrain.runtime.remote.place import bucket_at
from posttrain.runtime.remote.results import fetch
from posttrain.runtime.trees import Irregular, contents, remove
from posttrain.runtime.writing import replacing
from schemas.results import FileEntry

MANIFEST = "checkpoint.json"
LOOK_SECONDS, LAST_SECONDS = 2.0, 60.0
Manifest = TypeAdapter(dict[str, FileEntry])


class _Superseded(Exception):
    """The next checkpoint was written while this one was copied."""


@contextmanager
def uploading(bucket: Bucket, partial: Path) -> Iterator[None]:
    """Copy each checkpoint that appears inside into the bucket, the newest where one takes longer than training to the next.

    The one that an interrupted stage leaves is copied before it ends.
    """
    copies = _Copies(bucket_at(bucket.address, away_seconds=0), partial, current())
    over = threading.Event()
    thread = threading.Thread(target=copies.follow, args=(over,), daemon=True, name="checkpoints")
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        thread.join(LAST_SECONDS)
        copies.look()
        raise
    over.set()
    thread.join(LAST_SECONDS)


class _Copies:
    """The checkpoints of one stage that were copied."""

    def __init__(self, bucket: Bucket, partial: Path, progress: Progress) -> None:
        self.bucket, self.partial, self.progress = bucket, partial, progress
        self.last, self.told = newest(partial), False

    def follow(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Copy the newest checkpoint, unless that was done; training does not end where it cannot be done."""
        step = newest(self.partial)
        if step <= self.last:
            return
        try:
            upload(self.bucket, self.partial)
            self.last = step
        except _Superseded:
            return
        except Exception as error:
            if not self.told:
                self.progress.note(f"{self.bucket.address}: checkpoints stay on this machine: {error}")
                self.told = True


def newest(partial: Path) -> int:
    """Step of the newest checkpoint of a folder; 0 where it has none."""
    return max((int(path.name) for path in (partial / CHECKPOINT).glob("[0-9]*") if path.name.isdigit()), default=0)


def upload(bucket: Bucket, partial: Path) -> None:
    """Copy what a stage resumes from.

    Raises:
        _Superseded: when a file went away on the way.
    """
    name = _name(partial)
    present = dict(bucket.names(f"{name}/files/"))
    try:
        manifest = {str(path.relative_to(partial)): _sent(bucket, name, path, present) for path in _resumable(partial)}
    except FileNotFoundError:
        raise _Superseded from None
    bucket.write(f"{name}/{MANIFEST}", Manifest.dump_json(manifest, indent=1))
    needed = {f"{name}/files/{entry.sha256}" for entry in manifest.values()}
    bucket.delete(set(present) - needed)


def _resumable(partial: Path) -> list[Path]:
    """Checkpoints first: what a curve has beyond its checkpoint is cut when training goes on, and what it lacks would be lost."""
    files, _ = contents(partial)
    own = [path for path in files if path.relative_to(partial).parts[0] in RESUMED]
    whole = [path for path in own if path.relative_to(partial).parts[:2] != (CHECKPOINT, "writing")]
    return sorted(whole, key=lambda path: path.relative_to(partial).parts[0] != CHECKPOINT)


def _sent(bucket: Bucket, name: str, path: Path, present: dict[str, int]) -> FileEntry:
    """Copy a file as it is now."""
    with _still(path) as stream:
        entry = FileEntry(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=stream.tell())
        if present.get(f"{name}/files/{entry.sha256}") != entry.size:
            bucket.upload(f"{name}/files/{entry.sha256}", stream)
    return entry


@contextmanager
def _still(path: Path) -> Iterator[Any]:
    """A file whose bytes do not change inside: those of a checkpoint are replaced as a whole, curves grow."""
    with path.open("rb") as stream:
        if CHECKPOINT in path.parts:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield copy


def take_up(bucket: Bucket, partial: Path) -> None:
    """Have the folder in which a stage is built hold the bucket's checkpoint, where that is further than its own."""
    name = _name(partial)
    found = bucket.read(f"{name}/{MANIFEST}")
    if found is None:
        return
    try:
        manifest = Manifest.validate_json(found.content)
        step = max(int(Path(path).parts[1]) for path in manifest if path.startswith(f"{CHECKPOINT}/0"))
        if step <= newest(partial):
            return
        with replacing(partial) as scratch:
            scratch.mkdir()
            fetch(bucket, f"{name}/files", manifest, scratch)
            _require_whole(scratch, manifest)
            remove(partial)
        current().note(f"{partial.parent.name} goes on from the checkpoint of step {step} in {bucket.address}")
    except (ValueError, LookupError, Irregular, OSError) as error:
        current().note(f"{bucket.address}/{name}: its checkpoint is left aside: {error}")


def _require_whole(folder: Path, manifest: dict[str, FileEntry]) -> None:
    for path, entry in manifest.items():
        if Path(path).parts[0] not in RESUMED or file_digest(folder / path) != entry.sha256:
            raise LookupError(f"{path} does not have the bytes of the manifest")


def drop(bucket: Bucket, partial: Path) -> None:
    """Forget the checkpoints of a stage that is finished."""
    with suppress(Exception):  # the bucket's own rules delete what is old
        bucket.delete([name for name, _ in bucket.names(f"{_name(partial)}/")])


def _name(partial: Path) -> str:
    return f"{partial.parent.name}/{partial.name}"
