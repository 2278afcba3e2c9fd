"""What an adapter was trained on: the base's weights, its vocabulary and the adapters below it, recorded and verified.

An adapter on another base computes nonsense without an error: shapes fit. So each adapter folder says in `lineage.json` which
weights it belongs to, and is loaded on nothing else. The weights are known by content where they were loaded as they are; where
adapters were merged into them, by the content of the parts, since a merge may round differently on another machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.models import blocks
from posttrain.runtime.integrity import file_digest
from schemas.errors import Refusal
from schemas.peft import Peft

FILE = "lineage.json"
_ATTRIBUTE = "posttrain_identity"  # of a transformers model that has adapters in it


@dataclass(frozen=True)
class BaseIdentity:
    """What a model consists of."""

    weights: str
    """SHA-256 of the base's parameters: names, shapes, values in fp32; empty for a model without numbers."""
    vocabulary: int
    """Rows of the input embedding."""
    adapters: tuple[str, ...] = ()
    """SHA-256 of the tensors of each adapter in it, in the order of training."""


def identity_of(model: Any) -> BaseIdentity:
    """What the transformers model inside `model` consists of."""
    base = blocks.core(model)
    known: BaseIdentity | None = getattr(base, _ATTRIBUTE, None)
    return known or _by_content(base)


def declare(model: Any, known: BaseIdentity) -> None:
    """Record the identity of a quantised model, whose tensors alone do not determine it."""
    setattr(blocks.core(model), _ATTRIBUTE, known)


def record(folder: Path, spec: Peft, below: BaseIdentity) -> None:
    """Write an adapter's lineage into its folder."""
    content = {"peft": spec.model_dump(mode="json"), "base": asdict(below)}
    (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True))


def verify(model: Any, folder: Path) -> None:
    """Make sure that an adapter was trained on this model.

    Raises:
        Refusal: when it was trained on another one, or does not say on which.
    """
    path = folder / FILE
    if not path.is_file():
        raise Refusal(
            where=f"adapter ({folder})",
            found=f"no {FILE}",
            allowed="an adapter that says what it was trained on",
            remedy="train it again",
        )
    wanted = _recorded(path)
    found = identity_of(model)
    if wanted.vocabulary != found.vocabulary:
        raise Refusal(
            where=f"adapter ({folder})",
            found=f"a base with {found.vocabulary} token embeddings",
            allowed=f"one with {wanted.vocabulary}",
            remedy="load the adapter on the base that it was trained on, before its vocabulary is resized",
        )
    if wanted != found and wanted != _by_content(blocks.core(model)):
        raise Refusal(
            where=f"adapter ({folder})",
            found=f"a base of {_short(found)}",
            allowed=f"{_short(wanted)} (digests), on which it was trained",
            remedy="load the adapter on the base and the adapters that it was trained on, in their order",
        )


def method_of(folder: Path) -> str:
    """The method by which an adapter was trained."""
    return str(json.loads((folder / FILE).read_text())["peft"]["method"])


def rebase(folders: Sequence[Path], base: Any) -> None:
    """Record that these adapters belong on this plain model, in this order: everything else below them was merged into it."""
    below = _by_content(base)
    for folder in folders:
        content = json.loads((folder / FILE).read_text()) | {"base": asdict(below)}
        (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True))
        (tensors,) = folder.glob("*.safetensors")
        below = replace(below, adapters=(*below.adapters, file_digest(tensors)))


def adopt(model: Any, folder: Path) -> None:
    """Treat a model that was saved together with the adapter of `folder` as the model that the adapter was trained on.

    If adapters had been merged into it, its weights alone do not show that.
    """
    setattr(blocks.core(model), _ATTRIBUTE, _recorded(folder / FILE))


def _recorded(path: Path) -> BaseIdentity:
    try:
        base = json.loads(path.read_text())["base"]
        return BaseIdentity(**{**base, "adapters": tuple(base["adapters"])})
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            where=str(path),
            found=f"no lineage ({error})",
            allowed="the file that was saved with the adapter",
            remedy="copy the folder again, or train the adapter again",
        ) from error


def grow(model: Any, tensors: Path, below: BaseIdentity) -> None:
    """Record that the adapter of this file is now on the model."""
    declare(model, replace(below, adapters=(*below.adapters, file_digest(tensors))))


def _by_content(base: Any) -> BaseIdentity:
    if blocks.on_meta(base):
        return BaseIdentity("", 0)
    parameters = sorted(base.named_parameters())
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_digest, [parameter for _, parameter in parameters]))
    content = repr([(name, tuple(p.shape), part) for (name, p), part in zip(parameters, parts, strict=True)])
    return BaseIdentity(hashlib.sha256(content.encode()).hexdigest(), base.get_input_embeddings().weight.shape[0])


def _digest(tensor: Tensor) -> str:
    """SHA-256 of the values in fp32, or of the bytes of a quantised tensor."""
    values = tensor.detach().cpu()
    values = values.float() if values.is_floating_point() else values
    content: Any = values.reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()


def _short(identity: BaseIdentity) -> str:
    return " + ".join(digest[:12] for digest in (identity.weights, *identity.adapters))
