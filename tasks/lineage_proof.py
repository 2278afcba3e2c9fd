"""`posttrain lineage --verify`: whether what lies in the store is what was built, handed on and registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from posttrain.runtime.integrity import damage
from posttrain.runtime.store import StageKey
from schemas.errors import Refusal
from schemas.results import Origin, StageResult
from tasks.version_tags import SEAL, UNSEALED

LATEST = 100  # version of a stage up to which its key is sought: results do not say theirs


def prove(walked: Sequence[tuple[StageResult, Path]], tags: Mapping[str, str]) -> None:
    """Check every stage behind a model, from the first.

    Its files have the digests of its manifest, its key is that of its fields and inputs, its inputs are what the stages before it
    put out, and its seal is the one that the registry has.

    Args:
        walked: results with the roots of their stores, inputs before their consumers.
        tags: of the registered version; empty for a run.

    Raises:
        Refusal: for the first stage that is not so.
    """
    by_key = {result.key: result for result, _ in walked}
    own_root = walked[-1][1]
    for result, root in walked:
        folder = root / result.stage / result.key
        noted = tags.get(f"{SEAL}{result.stage}") if root == own_root else None  # of a parent's stages its own version has tags
        wrong = damage(folder, result) or _identity(result) or _inputs(result, by_key) or _registered(result, noted)
        if wrong:
            raise Refusal(
                where=f"{result.stage} ({folder})",
                found=wrong,
                allowed="what was built",
                remedy=f"do not trust this model; remove {folder} and run its recipe again to build it anew",
            )


def _identity(result: StageResult) -> str | None:
    identities = (StageKey(result.stage, version, result.fields, result.inputs) for version in range(1, LATEST))
    known = any(each.key == result.key for each in identities)
    return None if known else "fields or inputs from which its key does not follow"


def _inputs(result: StageResult, by_key: Mapping[str, StageResult]) -> str | None:
    return next((wrong for origin in result.inputs if (wrong := _input(origin, by_key))), None)


def _input(origin: Origin, by_key: Mapping[str, StageResult]) -> str | None:
    made = by_key.get(origin.location)
    if made is None or made.stage != origin.name.partition(".")[0]:
        return None  # a source or a checkpoint outside the store
    output = origin.name.partition(".")[2]
    entry = made.files.get(made.outputs.get(output, ""))
    found = made.digest if not output else entry.sha256 if entry else None
    return None if found == origin.digest else f"an input {origin.name} that is not what {made.stage} put out"


def _registered(result: StageResult, noted: str | None) -> str | None:
    if noted is None or noted == (result.seal or UNSEALED):
        return None
    return f"a result with the seal {_short(result.seal)}, where {_short(noted)} was registered: rebuilt or edited since"


def _short(seal: str | None) -> str:
    return (seal or UNSEALED)[:12]


def unproven(walked: Iterable[tuple[StageResult, Path]]) -> list[str]:
    """Stages whose numbers nothing vouches for, since an older version wrote their results."""
    return [result.stage for result, _ in walked if result.seal is None]
