"""A champion's files in a repository of the hub, where the recipe asks for it: the one thing that leaves the machine by itself.

Only the version that became champion is pushed, once; the token is the environment's. A push that fails is told, and tried again
by the next run of the recipe: the version is registered and consumers have it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.tracking_check import TOKEN
from posttrain.report.model_card import CARD
from tasks.tracking import never_fatal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)
TAG = "hub.commit"
PARTS = ("checkpoint", "adapter")  # the first that a version has is pushed


@never_fatal
def push(chain: Chain, client: MlflowClient, version: ModelVersion) -> str | None:
    """Push a version that was not pushed yet; returns the address of the commit, None where there is nothing to push."""
    assert chain.recipe.registry
    repository = chain.recipe.registry.hub
    if repository is None or TAG in client.get_model_version(version.name, version.version).tags:
        return None
    folder = chain.stored("register").folder
    address = _upload(folder, repository, f"{version.name} version {version.version}")
    client.set_model_version_tag(version.name, version.version, TAG, address)
    return address


def _upload(folder: Path, repository: str, said: str) -> str:
    """One commit with the checkpoint, or the adapter where none can be merged, and the model card beside it."""
    from huggingface_hub import HfApi

    part = next(folder / name for name in PARTS if (folder / name).is_dir())
    api = HfApi(token=os.environ[TOKEN])
    api.create_repo(repository, private=True, exist_ok=True)
    if (folder / CARD).exists():
        api.upload_file(path_or_fileobj=folder / CARD, path_in_repo=CARD, repo_id=repository, commit_message=said)
    commit = api.upload_folder(repo_id=repository, folder_path=part, commit_message=said, ignore_patterns=[CARD])
    log.info("pushed %s to %s", said, repository)
    return str(commit.commit_url)
