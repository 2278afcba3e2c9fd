"""Locks between processes that say who holds them.

PATH            the lock: held by the system, so that it ends with its process
PATH.holder     who holds it, for those who wait
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from posttrain.runtime import progress
from posttrain.runtime.trees import Irregular, is_shared, read_regular
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal

HOLDER_BYTES = 4096


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock inside; whoever has to wait for it is told for whom, and since when it is held.

    Raises:
        Refusal: when this user may not make the lock, or it is a link.
    """
    lock = FileLock(path, mode=0o664) if is_shared(path.parent) else FileLock(path)
    holder = path.with_name(f"{path.name}.holder")
    try:
        _acquire(lock, holder)
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise not_writable(path.parent, error) from error
    try:
        write_atomically(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}))
        yield
    finally:
        holder.unlink(missing_ok=True)  # before the release: afterwards it could be another's
        lock.release()


@contextmanager
def locked_if_free(path: Path, mode: int | None = None) -> Iterator[bool]:
    """Hold a lock inside, unless another process holds it: says whether it is held. `mode` is of the file, whatever the umask.

    Raises:
        Refusal: when this user may not make the lock, or it is a link.
    """
    lock = FileLock(path, mode=0o664) if is_shared(path.parent) else FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise not_writable(path.parent, error) from error
    if mode is not None and path.stat().st_uid == os.getuid():
        path.chmod(mode)
    try:
        yield True
    finally:
        lock.release()


def _acquire(lock: FileLock, holder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.current().note(f"waiting for {_who(holder)}, which holds {lock.lock_file}")
        lock.acquire()


def _who(holder: Path) -> str:
    """Whom the file names; what another program wrote there is not repeated."""
    try:
        said = json.loads(read_regular(holder, HOLDER_BYTES))
        return f"process {int(said['pid'])} on {_plain(said['host'])} since {_plain(said['since'])}"
    except (OSError, Irregular, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _plain(text: str) -> str:
    return "".join(character for character in str(text) if character.isalnum() or character in "-+.: _")[:64]


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def not_writable(folder: Path, error: OSError) -> Refusal:
    """The refusal of a folder of a store in which this user may not write."""
    return Refusal(
        where="--store",
        found=f"{folder}, in which user {os.getuid()} may not write ({error.strerror or error})",
        allowed="a store of your own, or one that is shared with your group",
        remedy="give another --store, or have the owner share this one: chgrp -R GROUP STORE; chmod -R g+rwX STORE; "
        "find STORE -type d -exec chmod g+s {} +",
    )
