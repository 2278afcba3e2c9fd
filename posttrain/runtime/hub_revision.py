"""Which commit a revision of a model or data set of the hub means now, so that a branch that moves is another input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

SECONDS = 10  # to wait for the hub before its local cache is asked
Kind = Literal["model", "dataset"]


def commit_of(name: str, revision: str, kind: Kind = "model") -> str:
    """The commit of a branch or tag: as the hub says, else as its local cache does, else the revision as it was written."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return _on_hub(name, revision, kind) or _in_cache(name, revision, kind) or revision


def cached_snapshot(name: str, revision: str, kind: Kind) -> Path | None:
    """The folder in which the local cache of the hub has files of a revision, laid out as the hub has them."""
    folder = _cached(name, kind) / "snapshots" / commit_of(name, revision, kind)
    return folder if folder.is_dir() else None


def _on_hub(name: str, revision: str, kind: Kind) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=SECONDS).sha
    except Exception:  # offline, or unknown there: whoever loads it says so; the client's errors have no common base
        return None


def _in_cache(name: str, revision: str, kind: Kind) -> str | None:
    reference = _cached(name, kind) / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None


def _cached(name: str, kind: Kind) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
