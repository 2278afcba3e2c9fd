"""Compiles the kernels, and keeps what was compiled; where numba does not work, plain Python computes the same."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

try:
    import numba
except ImportError:  # no wheel for this machine, or a NumPy that it does not know
    numba = None

F = TypeVar("F", bound=Callable[..., Any])
COMPILED: Final = numba is not None and not numba.config.DISABLE_JIT


def kernel(function: F) -> F:
    """The function, compiled on its first call. It releases the interpreter's lock, and what was compiled is kept on disk."""
    if not COMPILED:
        return np.errstate(over="ignore")(function)  # hashes are modulo 2^64
    compiled: F = numba.njit(nogil=True, cache=True)(function)
    return compiled


def cache_of_user() -> Path:
    """Where a user's programs keep what they can make again. A store is none: others may write it, or hand it on as a copy."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "posttrain"


def keep_compiled(folder: Path) -> None:
    """Keep in `folder` what the kernels compile to; called before their modules are imported, later it changes nothing.

    What is kept is code that later runs load. So it lies in a folder that this user alone can write to, whoever else may write
    beside it; where that cannot be had, in a temporary one. Numba looks only at the file of a function to see whether it
    has changed, not at what that calls: hence a folder for each state of the sources.
    """
    if COMPILED and "NUMBA_CACHE_DIR" not in os.environ:
        own = folder / f"compiled-{os.getuid()}"
        place = own / _sources() if _is_ours(own) else Path(tempfile.mkdtemp())
        numba.config.CACHE_DIR = str(place)


def kept_in() -> str:
    """Where this process looks for what was compiled; empty where that is beside the sources."""
    return str(numba.config.CACHE_DIR) if COMPILED else ""


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _sources() -> str:
    total = hashlib.sha256(f"{numba.__version__}".encode())
    rooms = Path(__file__).parents[2]
    for path in sorted(path for room in ("text", "filters") for path in (rooms / room).rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
