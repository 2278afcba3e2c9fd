"""Where a running `posttrain serve` says that it can be reached, for the other commands on its store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.runtime.liveness import is_dead, note_of_this_process
from posttrain.runtime.trees import Irregular, read_regular
from posttrain.runtime.writing import write_atomically
from schemas.deployed import ProcessNote

FILE = "serve.json"


@contextmanager
def announced(root: Path, addresses: dict[str, str]) -> Iterator[None]:
    """Name the addresses in the store while this process serves them."""
    note = note_of_this_process("serve", None)
    write_atomically(root / FILE, json.dumps({"process": note.model_dump(), **addresses}, indent=1))
    try:
        yield
    finally:
        (root / FILE).unlink(missing_ok=True)


def served_address(root: Path) -> str | None:
    """The API of the Prefect server that this user serves on a store of this machine; None where none does.

    A file of another user is not believed: what a run is asked of may run any code here.
    """
    path = root / FILE
    try:
        if path.lstat().st_uid != os.getuid():
            return None
        document = json.loads(read_regular(path, 4096))
        return None if is_dead(path, ProcessNote.model_validate(document["process"])) else str(document["prefect"])
    except (OSError, Irregular, ValueError, KeyError, TypeError):
        return None
