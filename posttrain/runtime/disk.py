"""A full disk while tensors are written: said with the path and the space that is needed, whatever the writer made of it."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

SAID = ("No space left on device", "Disk quota exceeded")  # by the system, whatever library repeats it


class DiskFull(OSError):
    """There is no room for what is written; what was finished before stays, and the same command goes on from it."""

    def __init__(self, said: str) -> None:
        super().__init__(errno.ENOSPC, said)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[DiskFull], tuple[str]]:
        """Cross a process border."""
        return type(self), (str(self),)


@contextlib.contextmanager
def writing(path: Path, content: Any) -> Iterator[None]:
    """Around the writing of `content`, tensors in dicts and lists, to a file or into a folder.

    torch says of a full disk that a position is unexpected, safetensors that there was an error of input and output.

    Raises:
        DiskFull: when it fails because the disk has less room than is needed, of which the tensors of `content` are the most.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        _remove(path)  # half of a checkpoint is of no use, and takes the room
        needed, free = size_of(content), shutil.disk_usage(path.parent).free
        if free >= needed and not any(words in str(error) for words in SAID):
            raise
        raise DiskFull(f"disk full: {path} needs {_megabytes(needed)}, and {_megabytes(free)} are free: make room, and run the "
                       "same command again, which goes on from the last checkpoint") from error  # fmt: skip


def size_of(content: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(size_of, parts))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
