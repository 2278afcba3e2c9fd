"""Policies by reference: a checkpoint and the adapters that earlier stages trained on it; `models.py` loads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.data.chat_templates import read_template
from posttrain.runtime.integrity import file_digest
from posttrain.runtime.permissions import refuse_remote_code
from posttrain.runtime.store import Stored
from schemas.errors import Refusal
from schemas.model import GgufModel, HubModel, LocalModel, Model, RegistryModel, ScratchModel
from schemas.results import Origin


@dataclass(frozen=True)
class Policy:
    """A checkpoint, and adapters that are merged into it in this order."""

    base: str
    """Folder or hub id; empty for a scratch model that is not trained yet."""
    revision: str = "main"
    trust_remote_code: bool = False
    adapters: tuple[Path, ...] = ()
    gguf: str | None = None
    """File in the folder `base` that holds weights, config and tokenizer; None: they are files of save_pretrained."""
    chat_template: str | None = None
    """Text of the template that the tokenizer in `base` is given; None: it keeps what it has."""
    new_tokens: tuple[int, ...] = ()
    """Tokens whose embeddings in `base` are a mean that nothing has trained; none once a stage has trained every weight."""


def policy_after(policy: Policy, stages: Iterable[Stored]) -> Policy:
    """What becomes of a policy in the given training stages: a full checkpoint replaces it, an adapter is stacked on it.

    A stage that saved a checkpoint saved the chat template with it.
    """
    for stored in stages:
        if "model" in stored.result.outputs:
            policy = Policy(str(stored.path("model")), trust_remote_code=policy.trust_remote_code)
        elif "adapter" in stored.result.outputs:
            policy = replace(policy, adapters=(*policy.adapters, stored.path("adapter")))
    return policy


def source_policy(model: Model, field: str = "model") -> Policy:
    """Where a model points; `field` is where the recipe names it.

    Raises:
        Refusal: when its chat template cannot be read, or it needs code that this machine may not run.
        LookupError: for a registry URI, which `Chain.model` turns into a folder.
    """
    template = read_template(getattr(model, "chat_template", None), f"{field}.chat_template")
    match model:
        case HubModel():
            if model.trust_remote_code:
                refuse_remote_code(f"{field}.trust_remote_code")
            return Policy(model.name, model.revision, model.trust_remote_code, chat_template=template)
        case LocalModel():
            return replace(folder_policy(_absolute(model.path)), chat_template=template)
        case GgufModel():
            return Policy(str(_absolute(model.path).parent), gguf=_absolute(model.path).name, chat_template=template)
        case ScratchModel():
            return Policy("")
        case RegistryModel():
            raise LookupError(f"{model.uri} is not fetched yet")


def folder_policy(folder: Path) -> Policy:
    """The policy in a folder of save_pretrained, or in one that `posttrain/checkpoints/export.py` wrote."""
    if (folder / "checkpoint").is_dir() and not (folder / "config.json").exists():
        return Policy(str(folder / "checkpoint"))
    if (folder / "base").is_dir() and not (folder / "config.json").exists():
        return Policy(str(folder / "base"), adapters=tuple(sorted(folder.glob("adapter*"))))
    return Policy(str(folder))


def adapter_beside(where: str, place: str) -> Refusal:
    """The refusal of a checkpoint with an adapter beside it: transformers would put it into the model without a word."""
    return Refusal(
        where=where,
        found=f"{place}, a checkpoint and an adapter (adapter_config.json) in one place",
        allowed="a checkpoint alone",
        remedy="move the adapter's files out of the folder, or merge the adapter with peft and save the model",
    )


def model_origin(model: Model) -> tuple[Origin, ...]:
    """The model as an input of a stage: the content of a folder or file, the revision of a hub model, nothing for scratch.

    Raises:
        LookupError: for a registry URI, which `Chain.model` turns into a folder.
    """
    match model:
        case HubModel():
            return (Origin(name="model", digest=f"{model.name}@{model.revision}", location=model.name),)
        case LocalModel():
            return (Origin(name="model", digest=folder_digest(Path(model.path).expanduser()), location=model.path),)
        case GgufModel():
            return (Origin(name="model", digest=file_digest(Path(model.path).expanduser()), location=model.path),)
        case ScratchModel():
            return ()
        case RegistryModel():
            raise LookupError(f"{model.uri} is not fetched yet")


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and digests of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = ",".join(f"{path.relative_to(folder)}:{file_digest(path)}" for path in files)
    return hashlib.sha256(content.encode()).hexdigest()
