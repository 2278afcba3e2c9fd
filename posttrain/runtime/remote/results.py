"""Finished results in a bucket, and copies of them in local folders.

    STAGE/KEY/files/SHA256    content of a file; two files, or two writers, that have the same content have the same object
    STAGE/KEY/result.json     the manifest, which names the files: written last, and by one writer only

A copy is taken for the result only after every byte of it was compared with the manifest.
"""

from __future__ import annotations

from pathlib import Path

from posttrain.runtime.integrity import damage, read_result
from posttrain.runtime.locks import locked
from posttrain.runtime.partial import RESULT
from posttrain.runtime.progress import current
from posttrain.runtime.remote.bucket import Bucket, Taken
from posttrain.runtime.trees import inside, read_regular, remove
from posttrain.runtime.writing import replacing
from schemas.results import FileEntry, StageResult


class Results:
    """The results of a bucket, as one process sees them."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._unsound: dict[str, str] = {}  # etags of manifests whose files are not what they say

    def pull(self, folder: Path, over: bool = False) -> bool:
        """Copy the result of a key into `STORE/STAGE/KEY`, in place of a damaged one; whether it is there and sound.

        Args:
            folder: of the result in the local copy of the store.
            over: take the place of a sound one as well.

        Raises:
            Refusal: when the manifest names a file outside of the folder.
        """
        name = _name(folder)
        found = self.bucket.read(f"{name}/{RESULT}")
        if found is None or self._unsound.get(name) == found.etag:
            return False
        result = _parsed(found.content)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.pull.lock")):  # of this machine's processes
            there = read_result(folder)
            if there and not over and damage(folder, there) is None:
                return True
            wrong = self._copy(result, found.content, folder) if result else f"{RESULT} cannot be read"
        if wrong:
            self._unsound[name] = found.etag
            current().note(f"{self.bucket.address}/{name} is not what was built ({wrong}), and is built again")
        return wrong is None

    def _copy(self, result: StageResult, document: bytes, folder: Path) -> str | None:
        """What is wrong with the copy, or None where it was made."""
        try:
            with replacing(folder) as scratch:
                scratch.mkdir()
                fetch(self.bucket, f"{_name(folder)}/files", result.files, scratch)
                (scratch / RESULT).write_bytes(document)
                if wrong := damage(scratch, result):
                    raise LookupError(wrong)
                remove(folder)
        except LookupError as error:
            return str(error)
        return None

    def share(self, folder: Path, result: StageResult) -> bool:
        """Put a finished result into the bucket; False where that of another writer counts, and has taken its place here."""
        if self._push(folder, result):
            return True
        if self.pull(folder, over=True):
            current().note(f"{_name(folder)}: another run has finished it first, whose result is taken")
            return False
        return self._push(folder, result)

    def _push(self, folder: Path, result: StageResult) -> bool:
        """Whether the result in the bucket is this one now, or was before."""
        name = _name(folder)
        there = self.bucket.read(f"{name}/{RESULT}")
        known = _parsed(there.content) if there else None
        unsound = there is not None and (known is None or self._unsound.get(name) == there.etag)
        if known and not unsound:
            return known.seal == result.seal
        present = {} if unsound else dict(self.bucket.names(f"{name}/files/"))
        for path, entry in result.files.items():
            if present.get(f"{name}/files/{entry.sha256}") != entry.size:
                with (folder / path).open("rb") as stream:
                    self.bucket.upload(f"{name}/files/{entry.sha256}", stream)
        document = read_regular(folder / RESULT)
        try:
            if there:
                self.bucket.replace(f"{name}/{RESULT}", document, there.etag)
            else:
                self.bucket.create(f"{name}/{RESULT}", document)
        except Taken:
            return False
        return True


def fetch(bucket: Bucket, name: str, files: dict[str, FileEntry], folder: Path) -> None:
    """Copy files of a manifest into a folder, under which all of them stay.

    Raises:
        LookupError: when one is missing.
        Refusal: when one would lie outside.
    """
    for path, entry in files.items():
        place = inside(folder, *Path(path).parts, where="--store")
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as stream:
            if not bucket.download(f"{name}/{entry.sha256}", stream):
                raise LookupError(f"{path} is missing")


def _parsed(document: bytes) -> StageResult | None:
    try:
        return StageResult.model_validate_json(document)
    except ValueError:
        return None


def _name(folder: Path) -> str:
    """Stage and key of a result, as its objects are named."""
    return f"{folder.parent.name}/{folder.name}"
