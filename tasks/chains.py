"""Chains as tasks see them: with the model that the recipe means now, and with a registry to fetch it from."""

from __future__ import annotations

import functools
from pathlib import Path

from posttrain.chain import Chain
from posttrain.hub import commit_of
from posttrain.store import Store
from schemas.model import HubModel, RegistryModel
from schemas.recipe import Recipe
from tasks.registry import exact_uri, fetch_version


def pinned(recipe: Recipe, root: Path) -> Recipe:
    """The recipe of one run: a branch of the hub becomes its commit and an alias its version, so that neither moves on the way.

    Raises:
        Refusal: when the registry has no such version.
    """
    match recipe.model:
        case HubModel(name=name, revision=revision):
            exact = {"revision": commit_of(name, revision)}
        case RegistryModel(uri=uri):
            exact = {"uri": exact_uri(uri, recipe, root)}
        case _:
            return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=exact)})


def new_chain(recipe: Recipe, store: Store) -> Chain:
    """The chain of a pinned recipe."""
    return Chain(recipe, store, lambda uri: fetch_version(uri, recipe, store.root))


@functools.lru_cache(maxsize=1)
def chain_of(recipe: Recipe, root: str, run_id: str) -> Chain:
    """The chain of one run, made once per process: inputs that change during a run do not change its keys."""
    return new_chain(recipe, Store(root))
