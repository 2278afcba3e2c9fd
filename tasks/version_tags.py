"""What posttrain reads back from the tags of a registered version, which whoever may write into MLflow can set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from posttrain.runtime.store import is_key
from posttrain.runtime.trees import inside
from schemas.errors import Refusal

KEY, STAGE, STORE, RUN = "posttrain.key", "posttrain.stage", "posttrain.store", "posttrain.run"
SEAL, ARTIFACT = "result.", "artifact."  # prefixes: of the seal of a stage's result, and of the digest of a logged folder
UNSEALED = "unsealed"  # of a result that an older version wrote
MAKERS = ("register", "reward")  # stages that register


def key_of(tags: Mapping[str, str], where: str) -> str:
    """The key of the stage that made a version.

    Raises:
        Refusal: when the tag has not the form of a key.
    """
    key = tags.get(KEY, "")
    if not is_key(key):
        raise _refused(where, KEY, key, "32 hexadecimal digits")
    return key


def place_of(tags: Mapping[str, str], where: str) -> Path:
    """The folder, relative to its store, of the stage that made a version: `register`, or for a reward model `reward`.

    Raises:
        Refusal: when a tag names no such folder.
    """
    stage = tags.get(STAGE, "register")
    if stage not in MAKERS:
        raise _refused(where, STAGE, stage, " or ".join(MAKERS))
    return Path(stage) / key_of(tags, where)


def home_of(tags: Mapping[str, str], where: str) -> Path:
    """The root of the store that made a version. Nothing but results in the form of a store is read there.

    Raises:
        Refusal: when the tag names no folder of this machine.
    """
    home = tags.get(STORE, "")
    if "\0" in home or not Path(home).is_absolute() or ".." in Path(home).parts:
        raise _refused(where, STORE, home, "the full path of a store")
    return Path(home)


def cache_of(root: Path, name: str, version: str, tags: Mapping[str, str], where: str) -> Path:
    """The folder in the cache of a store for a registered version.

    Raises:
        Refusal: when its name, number or key would lead elsewhere.
    """
    return inside(root, "cache", "models", f"{name}-{version}-{key_of(tags, where)}", where=where)


def _refused(where: str, tag: str, value: str, allowed: str) -> Refusal:
    return Refusal(
        where=where,
        found=f"a version whose tag {tag} is {value[:200]!r}",
        allowed=allowed,
        remedy="somebody changed it in MLflow: take another version, or register this one again",
    )
