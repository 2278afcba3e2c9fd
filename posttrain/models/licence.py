"""The licence of a base model, as its own files say it."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path

from posttrain.models.policy import Policy
from posttrain.runtime.trees import read_regular

LONGEST = 1 << 20  # bytes of a model card
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.S)
_LICENCE = re.compile(r"^license:\s*['\"]?([\w.+-]{1,60})['\"]?\s*$", re.M)


def base_licence(policy: Policy) -> str | None:
    """Identifier of the licence: of a folder or hub model from its README.md, of a GGUF file from its metadata; None: unsaid."""
    if policy.gguf is not None:
        return _of_gguf(Path(policy.base) / policy.gguf)
    card = _card(policy)
    if card is None:
        return None
    with suppress(OSError, ValueError):
        front = _FRONT.search(read_regular(card.resolve(), LONGEST).decode(errors="replace"))
        found = _LICENCE.search(front[1]) if front else None
        return found[1] if found and found[1] != "unknown" else None
    return None


def _card(policy: Policy) -> Path | None:
    """README.md of the folder, or of the hub's cache: nothing is fetched for it."""
    if Path(policy.base).is_dir():
        return Path(policy.base) / "README.md"
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # what is no name of a repository
        found = try_to_load_from_cache(policy.base, "README.md", revision=policy.revision)
        return Path(found) if isinstance(found, str) else None
    return None


def _of_gguf(path: Path) -> str | None:
    if importlib.util.find_spec("gguf") is None:
        return None
    from gguf import GGUFReader

    with suppress(OSError, ValueError, IndexError, KeyError):
        field = GGUFReader(path).get_field("general.license")
        said = str(field.contents()) if field else ""
        return said if re.fullmatch(r"[\w.+-]{1,60}", said) else None
    return None
