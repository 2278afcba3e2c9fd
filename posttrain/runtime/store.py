"""The content-addressed store: one mechanism for caching, resuming, atomicity and lineage.

    ROOT/<stage>/<key>/            finished and immutable; result.json was written last
    ROOT/<stage>/<key>.partial/    being built; training checkpoints live in its `.checkpoint` folder
    ROOT/<stage>/<key>.lock        held by the process that builds the key
    ROOT/remote.json               the bucket that this folder is a local copy of, where there is one: `remote/results.py`

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

from posttrain.runtime.integrity import damage, entry_of, read_result
from posttrain.runtime.locks import locked, not_writable
from posttrain.runtime.partial import CHECKPOINT, RESULT, take_up
from posttrain.runtime.provenance import environment
from posttrain.runtime.remote.place import local_folder
from posttrain.runtime.remote.sides import side_of
from posttrain.runtime.trees import contents, remove
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.recipe import STAGES
from schemas.results import Metrics, Origin, StageResult

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
    """A store in a local folder, or in a bucket, `s3://BUCKET/PREFIX`, of which a local folder holds what this machine uses.

    Raises:
        Refusal: when the address is that of neither, the bucket cannot be used, or a folder of the store is a link.
    """

    def __init__(self, root: str | Path) -> None:
        folder = local_folder(str(root)) if "://" in str(root) else Path(root)
        self.root = folder.expanduser().resolve()
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
        self._side = side_of(self.root)

    @property
    def address(self) -> str:
        """Where other machines find it: the bucket, or the folder."""
        return self._side.address or str(self.root)

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
        found = self._here(identity)
        if found is None and self._side.pull(self.folder(identity.stage, identity.key)):
            found = self._here(identity)
        return found

    def _here(self, identity: StageKey) -> Stored | None:
        """The same of the local folder."""
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
            return self._shared(hit)
        folder = self.folder(identity.stage, identity.key)
        with _owned(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock")), self._side.building(folder):
            if hit := self.finished(identity):
                return self._shared(hit)
            partial = Path(f"{folder}.partial")
            with _owned(folder.parent):
                self.discard(identity)  # damaged: rebuilt, not trusted
                self._side.take_up(partial)
                take_up(partial, writes)
            started = time.monotonic()
            with self._side.attempt(partial):
                built = make(partial)
            result = _seal(identity, built, partial, time.monotonic() - started)
            os.replace(partial, folder)
            shared = self._shared(Stored(result, folder, reused=False))
            self._side.finish(partial)
            return shared

    def keep(self, path: Path) -> None:
        """Have a file of the store be where other machines find it, under the same name: the report of a run, say."""
        self._side.keep(path.relative_to(self.root).as_posix(), path)

    def _shared(self, stored: Stored) -> Stored:
        """The result that all machines have: this one, or that of another which was faster."""
        if self._side.share(stored.folder, stored.result):
            return stored
        self._verified.pop(stored.folder, None)
        theirs = read_result(stored.folder)
        assert theirs  # it was compared with its manifest when it came
        return Stored(theirs, stored.folder, reused=True)


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
    result = result.model_copy(update={"files": {str(path.relative_to(partial)): entry_of(path) for path in files}})
    result = result.model_copy(update={"seal": result.computed_seal})
    write_atomically(partial / RESULT, result.model_dump_json(indent=1))
    return result


def _is_of(result: StageResult, identity: StageKey) -> bool:
    """Whether a result says of itself what its place does; where an input was read may differ."""
    said, wanted = (
        [of.stage, of.key, json.dumps(of.fields, sort_keys=True), [(each.name, each.digest) for each in of.inputs]]
        for of in (result, identity)
    )
    return said == wanted
