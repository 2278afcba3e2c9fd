"""The content-addressed store: one mechanism for caching, resuming, atomicity and lineage.

    ROOT/<stage>/<key>/            finished and immutable; result.json was written last
    ROOT/<stage>/<key>.partial/    being built; training checkpoints live in its `.checkpoint` folder
    ROOT/<stage>/<key>.lock        held by the process that builds the key

A crash at any instant leaves a finished result or a resumable partial. A finished result is trusted only where `result.json` is
that of its stage, fields and inputs, and agrees with its own digest, and every file has the size and the SHA-256 of the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.runtime.locks import locked, not_writable
from posttrain.runtime.partial import CHECKPOINT, RESULT, take_up
from posttrain.runtime.provenance import environment
from posttrain.runtime.trees import Irregular, contents, read_regular, remove
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.recipe import STAGES
from schemas.results import FileEntry, Metrics, Origin, StageResult

ROOMS = ("cache", "prefect", "quarantine", "runs", "sweeps", "tracking")  # folders of a store beside those of the stages


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


def is_key(text: str) -> bool:
    """Whether a text has the form of a key: 32 hexadecimal digits."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


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
        Refusal: when the address is a URL, or one of its folders a link; only real folders are supported.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            raise Refusal(where="--store", found=str(root), allowed="a local folder", remedy="mount the bucket, or give a folder")
        self.root = Path(root).expanduser().resolve()
        if self.root.exists() and not self.root.is_dir():
            raise Refusal(
                where="--store", found=f"{root}, a file", allowed="a local folder", remedy="give a folder; it is made when absent"
            )
        for name in (*STAGES, *ROOMS):
            if (self.root / name).is_symlink():
                raise Refusal(
                    where="--store",
                    found=f"{self.root / name}, a link",
                    allowed="real folders: a link may lead out of the store",
                    remedy="mount the other disk there, or move the whole store",
                )
        self._verified: dict[Path, Stored] = {}  # this process checks each result once

    def require_writable(self) -> None:
        """Make sure that a run can be kept here.

        Raises:
            Refusal: when this user may not write into a folder of it.
        """
        there = next(place for place in (self.root, *self.root.parents) if place.exists())
        rooms = (self.root / name for name in (*STAGES, *ROOMS) if name != "prefect")  # which is one user's alone
        for folder in (there, *rooms):
            if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
                raise not_writable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def folder(self, stage: str, key: str) -> Path:
        """Where the finished result of a key stands or will stand."""
        return self.root / stage / key

    def finished(self, identity: StageKey) -> Stored | None:
        """The verified result of a key, or None when it is absent, damaged, or that of something else."""
        folder = self.folder(identity.stage, identity.key)
        result = read_result(folder)
        if result is None or not _is_of(result, identity):
            return None
        if folder not in self._verified:
            if damage(folder, result):
                return None
            self._verified[folder] = Stored(result, folder, reused=True)
        return self._verified[folder]

    def discard(self, identity: StageKey) -> None:
        """Forget a finished result."""
        folder = self.folder(identity.stage, identity.key)
        self._verified.pop(folder, None)
        remove(folder)

    def build(self, identity: StageKey, make: Callable[[Path], Built], writes: Iterable[str] = ()) -> Stored:
        """Return the finished result of `identity`, calling `make(partial folder)` when there is none.

        Concurrent builders of one key wait for the first and then reuse its result. Who may only read reuses all the same.

        Args:
            identity: of the stage.
            make: writes the result into the folder it is given.
            writes: names that it writes there; what an interrupted attempt left under others is not ours to delete.

        Raises:
            Refusal: when this user may not write into the store, or what an interrupted attempt left holds a link or a file that
                the stage does not write.
        """
        if hit := self.finished(identity):
            return hit
        folder = self.folder(identity.stage, identity.key)
        with _owned(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock")):
            if hit := self.finished(identity):
                return hit
            partial = Path(f"{folder}.partial")
            with _owned(folder.parent):
                self.discard(identity)  # damaged: rebuilt, not trusted
                take_up(partial, writes)
            started = time.monotonic()
            built = make(partial)
            result = _seal(identity, built, partial, time.monotonic() - started)
            os.replace(partial, folder)
            return Stored(result, folder, reused=False)


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Turn the error of a user who may not write into the refusal that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise not_writable(folder, error) from error


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
    files, folders = contents(partial)
    for folder in reversed(folders):  # an empty one is in no manifest
        with contextlib.suppress(OSError):
            folder.rmdir()
    result = result.model_copy(update={"files": {str(path.relative_to(partial)): _entry(path) for path in files}})
    result = result.model_copy(update={"seal": result.computed_seal})
    write_atomically(partial / RESULT, result.model_dump_json(indent=1))
    return result


def read_result(folder: Path) -> StageResult | None:
    """The result.json of a folder, or None when it is missing, a link, or not readable as one."""
    try:
        return StageResult.model_validate_json(read_regular(folder / RESULT))
    except (OSError, ValueError):  # Irregular is a ValueError
        return None


def _is_of(result: StageResult, identity: StageKey) -> bool:
    """Whether a result says of itself what its place does; where an input was read may differ."""
    said, wanted = (
        [of.stage, of.key, json.dumps(of.fields, sort_keys=True), [(each.name, each.digest) for each in of.inputs]]
        for of in (result, identity)
    )
    return said == wanted


def damage(folder: Path, result: StageResult) -> str | None:
    """What is wrong with a finished folder, or None where it holds the files of its manifest, digests included, and nothing else.

    A result of an older version has no seal: it is trusted by its manifest alone, as it was then. That loses nothing against
    somebody who may write into the store, and could seal what he wrote; against him the seals in the registry help.
    """
    if result.seal not in (None, result.computed_seal):
        return f"{RESULT} was edited: it does not agree with its own seal"
    if wrong := next((value for value in result.outputs.values() if _leads_out(value)), None):
        return f"the output {wrong!r} leads out of the folder"
    try:
        files, folders = contents(folder)
        present = {str(path.relative_to(folder)) for path in files} - {RESULT}
        if foreign := sorted(present ^ set(result.files)):
            return f"{foreign[0]} is {'missing' if foreign[0] in result.files else 'not in the manifest'}"
        if changed := next((name for name, entry in result.files.items() if _entry(folder / name) != entry), None):
            return f"{changed} does not have the bytes of the manifest"
    except (Irregular, OSError) as error:
        return str(error)
    known = {folder / parent for name in result.files for parent in Path(name).parents}
    empty = sorted(set(folders) - known) if result.seal else []
    return f"{empty[0]} is a folder that is not in the manifest" if empty else None


def _leads_out(output: str) -> bool:
    """Outputs are relative paths, or identifiers such as `models:/NAME/1`, which are harmless as paths."""
    return "\0" in output or Path(output).is_absolute() or ".." in Path(output).parts


def _entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=file_digest(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
