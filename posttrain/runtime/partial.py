"""The folder in which a stage is built: what an interrupted attempt left is taken up, and what is not ours is never deleted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from posttrain.runtime.trees import Irregular, contents, remove
from schemas.errors import Refusal

RESULT = "result.json"
CHECKPOINT = ".checkpoint"  # removed before the rename, never part of a result
RESUMED = (CHECKPOINT, "curve.jsonl", "rollouts.jsonl", "workers.log")  # what a stage goes on from; all else it writes anew
KINDS = {
    ".bpe", ".jinja", ".json", ".jsonl", ".log", ".md", ".model", ".parquet", ".safetensors", ".tiktoken", ".txt", ".vocab",
}  # fmt: skip
"""Suffixes of the files that stages write; none of them is code."""
_SCRATCH = re.compile(r"\..+\.tmp")  # of a file that was being written


def take_up(partial: Path, writes: Iterable[str]) -> None:
    """Make the folder in which a stage is built, or leave in it what the stage resumes from and nothing else.

    A file that a stage has not written itself would become part of its result, and code among it be run by whoever loads that.

    Args:
        partial: the folder.
        writes: names that the stage writes into it, with `*` for any characters.

    Raises:
        Refusal: when it holds links, pipes, files with another name outside, or files that the stage does not write. Nothing is
            deleted then.
    """
    with contextlib.suppress(FileExistsError):
        partial.mkdir()
    try:
        files, folders = contents(partial)
        if linked := next((path for path in files if path.stat().st_nlink > 1), None):
            raise Irregular(f"{linked} is a hard link")
        own = (*writes, *RESUMED)
        if foreign := next((path for path in (*folders, *files) if not _is_ours(path, path.relative_to(partial), own)), None):
            raise Irregular(f"{foreign}, which the stage {partial.parent.name} does not write")
    except Irregular as found:
        raise Refusal(
            where="--store",
            found=str(found),
            allowed="regular files in real folders, as an interrupted attempt leaves them",
            remedy=f"find out who put it there, and move it, or remove {partial}",
        ) from found
    for entry in partial.iterdir():
        if entry.name not in RESUMED:
            remove(entry)


def _is_ours(path: Path, place: Path, own: Iterable[str]) -> bool:
    """Whether an attempt of ours may have left a file or folder at this place of its partial; of a checkpoint, whatever it is."""
    top = place.parts[0]
    if top == CHECKPOINT or (len(place.parts) == 1 and (top == RESULT or _SCRATCH.fullmatch(top))):
        return True
    if not any(fnmatchcase(top, name) for name in own):
        return False
    return path.is_dir() or path.suffix in KINDS or path.name in own
