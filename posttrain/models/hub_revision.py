"""Which commit a revision of a hub model means now, so that a branch that moves is another input."""

from __future__ import annotations

import re
from pathlib import Path

SECONDS = 10  # to wait for the hub before its local cache is asked


def commit_of(name: str, revision: str) -> str:
    """The commit of a branch or tag: as the hub says, else as its local cache does, else the revision as it was written."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return _on_hub(name, revision) or _in_cache(name, revision) or revision


def _on_hub(name: str, revision: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision, timeout=SECONDS).sha
    except Exception:  # offline, or unknown there: whoever loads the model says so; the client's errors have no common base
        return None


def _in_cache(name: str, revision: str) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    reference = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None
