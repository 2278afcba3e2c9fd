"""Files that appear whole or not at all, and never through a link that somebody else has put in their way."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.runtime.trees import remove

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part; a link at its place is replaced."""
    content = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as scratch, os.fdopen(os.open(scratch, _NEW, 0o666), "wb") as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` that nobody can foresee, for a file or folder that takes its place at the end or is removed."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield scratch
        os.replace(scratch, path)
    except BaseException:
        remove(scratch)
        raise
