"""Chains as tasks see them: with the model that the recipe means now, and with a registry to fetch it from."""

from __future__ import annotations

import functools
from pathlib import Path

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.preflight import check_names, is_made, preflight
from posttrain.runtime import progress
from posttrain.runtime.hub_revision import commit_of
from posttrain.runtime.store import Store
from schemas.data import SOURCES
from schemas.errors import Refusal
from schemas.model import HubModel, RegistryModel
from schemas.ppo import PPO, RegistryReward, RewardSource
from schemas.recipe import Recipe
from schemas.sources import listed
from tasks.registry import exact_uri, fetch_version
from tasks.secret_blocks import read_blocks
from tasks.tracking import own_tracking, written_uri


def pinned(recipe: Recipe, root: Path) -> Recipe:
    """The recipe of one run: a branch of the hub becomes its commit and an alias its version, so that neither moves on the way.

    Raises:
        Refusal: when the registry has no such version.
    """
    recipe = _with_exact_reward_model(_with_exact_rewards(_with_exact_data(recipe), root))
    match recipe.model:
        case HubModel(name=name, revision=revision):
            exact = {"revision": commit_of(name, revision)}
        case RegistryModel(uri=uri):
            exact = {"uri": exact_uri(uri, recipe, root)}
        case _:
            return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=exact)})


def _with_exact_data(recipe: Recipe) -> Recipe:
    """The same for data sets of the hub."""
    given = {name: listed(getattr(recipe.data, name)) for name in SOURCES}
    exact = {
        name: tuple(
            source if source.name is None else source.model_copy(
                update={"revision": commit_of(source.name, source.revision or "main", "dataset")}
            )
            for source in sources
        )
        for name, sources in given.items()
        if any(source.name is not None for source in sources)
    }  # fmt: skip
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=exact)}) if exact else recipe


def _with_exact_reward_model(recipe: Recipe) -> Recipe:
    """The same for the checkpoint that a reward model starts as."""
    given = recipe.reward.model if recipe.reward else None
    if recipe.reward is None or not isinstance(given, HubModel):
        return recipe
    exact = given.model_copy(update={"revision": commit_of(given.name, given.revision)})
    return recipe.model_copy(update={"reward": recipe.reward.model_copy(update={"model": exact})})


def _with_exact_rewards(recipe: Recipe, root: Path) -> Recipe:
    """The same for the reward models that PPO takes from the registry."""
    if not isinstance(recipe.alignment, PPO):
        return recipe

    def exact(source: RewardSource, field: str) -> RewardSource:
        if not isinstance(source, RegistryReward):
            return source
        return source.model_copy(update={"uri": exact_uri(source.uri, recipe, root, f"alignment.{field}.uri")})

    given = {field: getattr(recipe.alignment, field) for field in ("reward", "monitor")}
    sources = {field: tuple(exact(source, field) for source in listed) for field, listed in given.items()}
    return recipe.model_copy(update={"alignment": recipe.alignment.model_copy(update=sources)})


def new_chain(recipe: Recipe, store: Store) -> Chain:
    """The chain of a pinned recipe."""
    return Chain(recipe, store, lambda uri: fetch_version(uri, recipe, store.root))


@functools.lru_cache(maxsize=256)
def check_once(recipe: Recipe, root: Path) -> None:
    """Preflight of a pinned recipe, once per process: the command line asks for it before it starts a server, and the flow again.

    Raises:
        Refusal: for the first thing that cannot work.
    """
    _require_common_registry(recipe, root)
    check_names(recipe)
    if is_built(chain := new_chain(recipe, Store(root))):
        return  # nothing is to be made, so that nothing can go wrong that rows and models decide
    preflight(chain, lambda notice: progress.current().note(f"note: {notice}"))


def is_built(chain: Chain) -> bool:
    """Whether every stage of a chain is finished in its store; where its inputs cannot be looked at, it is not."""
    if is_made(chain.recipe.model):
        return False
    try:
        return all(chain.store.finished(chain.identity(stage)) is not None for stage in chain.recipe.stages)
    except (Refusal, OSError):
        return False


def _require_common_registry(recipe: Recipe, root: Path) -> None:
    """Beside a store in a bucket the registry must not be a file of this machine: its models would be lost with it."""
    if recipe.registry is None or Store(root).address == str(root):
        return
    if written_uri(recipe, root) == own_tracking(root):
        raise Refusal(
            where="tracking.uri",
            found=f"no MLflow server, and a store in a bucket, {Store(root).address}",
            allowed="a server that every machine reaches",
            remedy="set MLFLOW_TRACKING_URI or tracking.uri, or registry=null to register nothing",
        )


@functools.lru_cache(maxsize=1)
def chain_of(recipe: Recipe, root: str, run_id: str) -> Chain:
    """The chain of one run, made once per process: inputs that change during a run do not change its keys."""
    read_blocks(recipe)
    return new_chain(recipe, Store(root))
