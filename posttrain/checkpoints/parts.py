"""What may lie in a folder that is loaded or handed on: weights, configs, tokenizers, a delta's loader, and no other code."""

from __future__ import annotations

from pathlib import Path

from posttrain.models.shards import refuse_outside_shards
from posttrain.peft import delta
from posttrain.runtime.partial import KINDS
from posttrain.runtime.trees import Irregular, contents
from schemas.errors import Refusal

LOADER = "delta.py"


def refuse_unexpected(folder: Path, where: str = "register", own_loader: bool = True) -> None:
    """Make sure that a folder holds nothing that could run, or that leads out of it.

    Args:
        where: what named the folder, for the refusal.
        own_loader: a `delta.py` must be this version's; else any may lie there, which this project never runs.

    Raises:
        Refusal: naming the first file that is not of a kind that a model or an adapter consists of.
    """
    try:
        files, _ = contents(folder)
    except (Irregular, OSError) as error:
        raise _refusal(where, str(error)) from error
    for path in files:
        if path.name == LOADER:
            if own_loader and path.read_bytes() != Path(delta.__file__).read_bytes():
                raise _refusal(where, f"{path}, which is not the loader that posttrain writes")
        elif path.suffix not in KINDS:
            raise _refusal(where, f"{path}, a file of another kind")
    for index in sorted({path.parent for path in files if path.name.endswith(".index.json")}):
        refuse_outside_shards(index, where)


def _refusal(where: str, found: str) -> Refusal:
    return Refusal(
        where=where,
        found=found,
        allowed="weights in safetensors, configs, tokenizers and chat templates, as regular files",
        remedy="nothing of it was run or handed on: find out who put it there, and remove it",
    )
