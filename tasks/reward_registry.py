"""Registered reward models in MLflow: a version for each result of the stage reward, and the alias of the most accurate one."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.models.policy import folder_digest
from posttrain.pipeline.chain import Chain
from posttrain.runtime.locks import locked
from posttrain.runtime.provenance import environment
from posttrain.runtime.store import Stored
from tasks.champion import CHALLENGER, champion_of
from tasks.registry import client_of, find_version, pinned_requirements
from tasks.signatures import ANSWERED, reward_signature
from tasks.tracking import parent_of
from tasks.turns import CHAMPION
from tasks.version_artifacts import REST, rest_digest
from tasks.version_tags import ARTIFACT, KEY, RUN, SEAL, STAGE, STORE, UNSEALED

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CONSUMER = Path(__file__).with_name("reward_consumer.py")
ACCURACY = "held_out_accuracy"
NONE = -1.0


def register_reward(chain: Chain, run_id: str) -> dict[str, str]:
    """Register the reward model of this run where the recipe names one; returns what the stage's report says about it.

    Versions are judged by their accuracy on the held-out pairs of their own run: the alias `champion` goes to one that beats the
    champion's, `challenger` to any other.
    """
    name = chain.recipe.registry.reward_model if chain.recipe.registry else None
    if name is None:
        return {}
    stored = chain.stored("reward")
    version = find_version(client_of(chain), name, stored.result.key) or _log(chain, run_id, name, stored)
    return {"reward_model": f"models:/{name}/{version.version}", "reward_alias": promote_reward(chain, version)}


def _log(chain: Chain, run_id: str, name: str, stored: Stored) -> ModelVersion:
    """Log the folder as a pyfunc model with the one artifact `checkpoint`, and make a version of it."""
    import mlflow

    from posttrain.checkpoints.parts import refuse_unexpected

    client = client_of(chain)
    parent = parent_of(client, chain.recipe, chain.store.root, run_id)
    with tempfile.TemporaryDirectory() as scratch, mlflow.start_run(run_id=parent), warnings.catch_warnings(record=True):
        # recorded, MLflow's advice is not printed; it undoes any filter
        checkpoint = Path(scratch) / "checkpoint"  # MLflow names an artifact after its folder
        refuse_unexpected(stored.path("reward"))
        shutil.copytree(stored.path("reward"), checkpoint)
        logged = mlflow.pyfunc.log_model(
            name="reward_model",
            python_model=str(CONSUMER),
            artifacts={"checkpoint": str(checkpoint)},
            pip_requirements=pinned_requirements(),
            signature=reward_signature(),
            input_example=ANSWERED,
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    client.update_run(parent, status="RUNNING")  # leaving `start_run` closed the parent in the middle of its run
    digest = folder_digest(stored.path("reward"))
    tags = reward_tags(chain, stored) | {"model_id": str(logged.model_id), RUN: run_id, f"{ARTIFACT}checkpoint": digest}
    tags |= {f"{ARTIFACT}{REST}": rest_digest(logged.model_uri, ["checkpoint"])}
    return client.create_model_version(name, logged.model_uri, parent, tags=tags, model_id=logged.model_id)


def reward_tags(chain: Chain, stored: Stored) -> dict[str, str]:
    """What made this version, so that it can be walked back without the store, and how good it is."""
    spec = chain.recipe.reward
    assert spec
    held_out = {name: f"{value:.6f}" for name, value in stored.result.metrics.items() if name.startswith("held_out_")}
    return {
        KEY: stored.result.key,
        STAGE: "reward",
        STORE: str(chain.store.root),
        f"{SEAL}reward": stored.result.seal or UNSEALED,
        "recipe": chain.recipe.name,
        "base_model": spec.model.source if spec.model else "the policy before alignment",
        "algorithm": "bradley-terry",
        "method": spec.peft.method,
        "git_commit": environment().get("git_commit", "unknown"),
        **{f"digest.{origin.name}": origin.digest for origin in stored.result.inputs},
        **held_out,
    }


def promote_reward(chain: Chain, version: ModelVersion) -> str:
    """Move an alias to the version, and return which."""
    client, name = client_of(chain), version.name
    with locked(chain.store.root / "tracking" / f"{name}.promotion.lock"):
        champion = champion_of(client, name)
        if champion is not None and champion.version == version.version:
            return CHAMPION
        beaten = champion is None or _accuracy(version) > _accuracy(champion)
        alias = CHAMPION if beaten else CHALLENGER
        client.set_registered_model_alias(name, alias, version.version)
    return alias


def _accuracy(version: ModelVersion) -> float:
    """Of held-out pairs; of a version that was measured on none, or whose tag is no number, less than any."""
    try:
        found = float(version.tags.get(ACCURACY, NONE))
    except ValueError:
        return NONE
    return found if math.isfinite(found) else NONE
