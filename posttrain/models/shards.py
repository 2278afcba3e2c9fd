"""Checkpoints in several files: the index that names them must not lead out of their folder."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.runtime.trees import is_name
from schemas.errors import Refusal

INDEX = "*.index.json"


def refuse_outside_shards(folder: Path, where: str) -> None:
    """Make sure that every index in a folder names files of that folder, which its digest covers.

    Args:
        where: what named the folder, for the refusal.

    Raises:
        Refusal: when an index cannot be read, or names a file elsewhere.
    """
    for path in sorted(folder.glob(INDEX)):
        try:
            named = set(json.loads(path.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _refusal(where, f"{path}, which is no index of safetensors ({type(error).__name__})") from error
        if outside := [name for name in named if not (isinstance(name, str) and is_name(name))]:
            raise _refusal(where, f"{path}, which names {outside[0]!r}")


def _refusal(where: str, found: str) -> Refusal:
    return Refusal(
        where=where,
        found=found,
        allowed="an index that names safetensors files of its own folder",
        remedy="take the checkpoint from its source",
    )
