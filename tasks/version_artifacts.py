"""What MLflow has of a version, which is what consumers load: its digests, noted when it is registered and compared later."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from posttrain.models.policy import folder_digest
from posttrain.runtime.integrity import file_digest
from schemas.errors import Refusal
from tasks.version_tags import ARTIFACT

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

REST = "rest"
"""Under this name the tags have the digest of all files that are in none of the folders: the model's code, requirements, card."""
_META = "registered_model_meta"  # MLflow writes it beside a copy
_COMPILED = "__pycache__"  # Python writes it beside code that somebody loads straight from a folder of artifacts


def rest_digest(uri: str, folders: Iterable[str]) -> str:
    """The digest of the files of a logged model that are in none of these folders of its artifacts; they are small."""
    paths = sorted(path for path in _files(uri, None, {f"artifacts/{folder}" for folder in folders}) if not _is_compiled(path))
    with tempfile.TemporaryDirectory() as scratch:
        content = ",".join(f"{path}:{file_digest(_fetch(uri, path, scratch))}" for path in paths)
    return hashlib.sha256(content.encode()).hexdigest()


def prove_version(uri: str, tags: Mapping[str, str]) -> list[str]:
    """Compare all that MLflow has of a version with the digests in its tags, those of an older version as far as they go.

    Returns:
        files that were not compared: code that a Python compiled when it loaded the version, which depends on that Python.

    Raises:
        Refusal: naming the first folder, or the rest, that is not what was registered.
    """
    noted = {name.removeprefix(ARTIFACT): digest for name, digest in tags.items() if name.startswith(ARTIFACT)}
    folders = [name for name in noted if name != REST]
    for part in noted:
        found = rest_digest(uri, folders) if part == REST else _folder_digest(uri, f"artifacts/{part}")
        if found != noted[part]:
            what = "files beside its folders are" if part == REST else f"{part} is"
            raise Refusal(
                where=f"MLflow ({uri})",
                found=f"a version whose {what} not what was registered",
                allowed="the bytes that its tags name",
                remedy="do not load it: register it again, and find out who can write to MLflow's artifacts",
            )
    return sorted(filter(_is_compiled, _files(uri, None, set())))


def _folder_digest(uri: str, path: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        copy = _fetch(uri, path, scratch)
        for compiled in [path for path in copy.rglob(_COMPILED) if path.is_dir() and not path.is_symlink()]:
            shutil.rmtree(compiled)
        return folder_digest(copy)


def _is_compiled(path: str) -> bool:
    return PurePosixPath(path).parent.name == _COMPILED


def _fetch(uri: str, path: str, folder: str) -> Path:
    return Path(_repository(uri).download_artifacts(path, folder))


def _files(uri: str, folder: str | None, without: set[str]) -> list[str]:
    """Paths of all files below a folder of the model's, but those in the folders that are left out."""
    found: list[str] = []
    for each in _repository(uri).list_artifacts(folder):
        if each.is_dir and each.path not in without:
            found += _files(uri, each.path, without)
        elif not each.is_dir and each.path != _META:
            found.append(each.path)
    return found


def _repository(uri: str) -> ArtifactRepository:
    """By which MLflow reaches the files of a model; `mlflow.artifacts` reads `models:/ID/FILE` as a name and a version."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)
