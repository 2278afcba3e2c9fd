"""Whether a finished result is what was built: its result.json agrees with itself, and every file with its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from posttrain.runtime.partial import RESULT
from posttrain.runtime.trees import Irregular, contents, read_regular
from schemas.results import FileEntry, StageResult


def read_result(folder: Path) -> StageResult | None:
    """The result.json of a folder, or None when it is missing, a link, or not readable as one."""
    try:
        return StageResult.model_validate_json(read_regular(folder / RESULT))
    except (OSError, ValueError):  # Irregular is a ValueError
        return None


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
        if changed := next((name for name, entry in result.files.items() if entry_of(folder / name) != entry), None):
            return f"{changed} does not have the bytes of the manifest"
    except (Irregular, OSError) as error:
        return str(error)
    known = {folder / parent for name in result.files for parent in Path(name).parents}
    empty = sorted(set(folders) - known) if result.seal else []
    return f"{empty[0]} is a folder that is not in the manifest" if empty else None


def _leads_out(output: str) -> bool:
    """Outputs are relative paths, or identifiers such as `models:/NAME/1`, which are harmless as paths."""
    return "\0" in output or Path(output).is_absolute() or ".." in Path(output).parts


def entry_of(path: Path) -> FileEntry:
    """Size and digest of a file."""
    return FileEntry(size=path.stat().st_size, sha256=file_digest(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
