"""Files and folders that others may have written: regular files in real folders, under the folder where they belong.

A store, a cache or a registry may be shared. What is read there may be a link that leads out of it, a pipe that never ends, or a
name with `..` in it; what is deleted or written there must not lead out of it either.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from schemas.errors import Refusal

DOCUMENT_BYTES = 64 << 20  # of a JSON document of ours, far above any that was seen
NAME_BYTES = 255  # what file systems allow
_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")


class Irregular(ValueError):
    """A link, pipe, socket or device where only regular files and real folders may be."""


def is_name(text: str) -> bool:
    """Whether a text can be the name of one file, and leads nowhere else."""
    return text not in ("", ".", "..") and not _CONTROL.search(text) and len(text.encode(errors="replace")) <= NAME_BYTES


def inside(root: Path, *names: str, where: str) -> Path:
    """`root` joined with plain names, none of which leads out of it, by a link neither.

    Args:
        where: what gave the names, for the refusal.

    Raises:
        Refusal: when a name is no plain one, or the path is a link that leads out of `root`.
    """
    path = root.joinpath(*names)
    if not all(map(is_name, names)) or not path.resolve().is_relative_to(root.resolve()):
        raise Refusal(
            where=where,
            found=f"{os.sep.join(names)!r}, which leads out of {root}",
            allowed="plain names, and folders that are no links",
            remedy="nothing was read or written there: find out who set it, and remove it",
        )
    return path


def contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, and all folders, each sorted.

    Raises:
        Irregular: when the folder or anything in it is neither a regular file nor a real folder.
        OSError: when a folder cannot be read.
    """
    files, folders, pending = [], [], [folder]
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise Irregular(f"{folder} is no real folder")
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_file(follow_symlinks=False):
                    files.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    pending.append(path)
                else:
                    raise Irregular(f"{path} is a {'link' if entry.is_symlink() else 'pipe, socket or device'}")
    return sorted(files), sorted(folders)


def read_regular(path: Path, limit: int = DOCUMENT_BYTES) -> bytes:
    """The bytes of a regular file that is no link.

    Raises:
        Irregular: when it is something else, or larger than `limit` bytes.
        OSError: when it is not there, a link, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for a writer
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise Irregular(f"{path} is no regular file of at most {limit} bytes")
        return stream.read(limit)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to), or a folder with what is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_shared(folder: Path) -> bool:
    """Whether a folder is a group's: its members may write, and folders made in it inherit that by the set-group-ID bit."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)
