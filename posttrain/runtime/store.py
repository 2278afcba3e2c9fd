"""The content-addressed store: one mechanism for caching, resuming, atomicity and lineage.

    ROOT/<stage>/<key>/            finished and immutable; result.json was written last
    ROOT/<stage>/<key>.partial/    being built; training checkpoints live in its `.checkpoint` folder
    ROOT/<stage>/<key>.lock        held by the process that builds the key

A crash at any instant leaves a finished result or a resumable partial. A finished result is trusted only after every file was
found to have the size and the SHA-256 of its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from posttrain.runtime.provenance import environment
from schemas.errors import Refusal
from schemas.results import FileEntry, Metrics, Origin, StageResult

RESULT = "result.json"
CHECKPOINT = ".checkpoint"  # inside a partial; removed before the rename, never part of a result


@dataclass(frozen=True)
class StageKey:
    """Everything that decides a stage's bytes."""

    stage: str
    version: int
    fields: dict[str, Any]
    inputs: tuple[Origin, ...] = ()

    @property
    def key(self) -> str:
        """SHA-256 of this identity, shortened to 32 hexadecimal digits."""
        identity = [self.stage, self.version, self.fields, [(o.name, o.digest) for o in self.inputs]]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


@dataclass
class Built:
    """What a build function returns: numbers, and named outputs as paths relative to the folder it was given."""

    metrics: Metrics = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A finished stage in the store."""

    result: StageResult
    folder: Path
    reused: bool

    def path(self, output: str) -> Path:
        """Absolute path of a named output."""
        return self.folder / self.result.outputs[output]

    def origin(self, output: str | None = None) -> Origin:
        """This result, or one of its single-file outputs, as an input of a later stage."""
        if output is None:
            return Origin(name=self.result.stage, digest=self.result.digest, location=self.result.key)
        digest = self.result.files[self.result.outputs[output]].sha256
        return Origin(name=f"{self.result.stage}.{output}", digest=digest, location=self.result.key)


class Store:
    """A store in a local folder.

    Raises:
        Refusal: when the address is a URL; only folders are supported.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise Refusal("--store", str(root), "a local folder", "mount the bucket, or give a folder")
        self.root = Path(root).expanduser().resolve()
        if self.root.exists() and not self.root.is_dir():
            raise Refusal("--store", f"{root}, a file", "a local folder", "give a folder; it is made when absent")
        self._verified: dict[Path, Stored] = {}  # this process checks each result once

    def folder(self, stage: str, key: str) -> Path:
        """Where the finished result of a key stands or will stand."""
        return self.root / stage / key

    def finished(self, identity: StageKey) -> Stored | None:
        """The verified result of a key, or None when it is absent or damaged."""
        folder = self.folder(identity.stage, identity.key)
        result = read_result(folder)
        if result is None:
            return None
        if folder not in self._verified:
            if not _verified(folder, result):
                return None
            self._verified[folder] = Stored(result, folder, reused=True)
        return self._verified[folder]

    def discard(self, identity: StageKey) -> None:
        """Forget a finished result."""
        folder = self.folder(identity.stage, identity.key)
        self._verified.pop(folder, None)
        shutil.rmtree(folder, ignore_errors=True)

    def build(self, identity: StageKey, make: Callable[[Path], Built]) -> Stored:
        """Return the finished result of `identity`, calling `make(partial folder)` when there is none.

        Concurrent builders of one key wait for the first and then reuse its result.
        """
        folder = self.folder(identity.stage, identity.key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if hit := self.finished(identity):
                return hit
            self.discard(identity)  # damaged: rebuilt, not trusted
            partial = Path(f"{folder}.partial")
            partial.mkdir(exist_ok=True)
            started = time.monotonic()
            built = make(partial)
            result = _seal(identity, built, partial, time.monotonic() - started)
            os.replace(partial, folder)
            return Stored(result, folder, reused=False)


def _seal(identity: StageKey, built: Built, partial: Path, seconds: float) -> StageResult:
    """Drop the checkpoints, take the manifest and write result.json last."""
    result = StageResult(  # refuses a number that is not finite, while the checkpoints are still there
        stage=identity.stage,
        key=identity.key,
        seconds=round(seconds, 3),
        fields=identity.fields,
        inputs=identity.inputs,
        metrics=built.metrics,
        outputs=built.outputs,
        files={},
        environment=environment(),
    )
    shutil.rmtree(partial / CHECKPOINT, ignore_errors=True)
    for left in (RESULT, f".{RESULT}.tmp"):  # of an attempt that died here: no part of the manifest
        (partial / left).unlink(missing_ok=True)
    result = result.model_copy(update={"files": {str(path.relative_to(partial)): _entry(path) for path in _files(partial)}})
    write_atomically(partial / RESULT, result.model_dump_json(indent=1))
    return result


def read_result(folder: Path) -> StageResult | None:
    """The result.json of a folder, or None when it is missing or not readable as one."""
    try:
        return StageResult.model_validate_json((folder / RESULT).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _verified(folder: Path, result: StageResult) -> bool:
    """Whether the folder holds exactly the files of its manifest, digests included."""
    present = {str(path.relative_to(folder)) for path in _files(folder)} - {RESULT}
    return present == set(result.files) and all(_entry(folder / p) == entry for p, entry in result.files.items())


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=file_digest(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old content or the new, never a part."""
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
