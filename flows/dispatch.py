"""Where a stage runs: in this process, or on a work pool. The recipe's `placement` chooses, and nothing else differs."""

from __future__ import annotations

import os
from typing import Protocol

from flows.deployed.paths import refuse_relative, require_absolute
from flows.stages import run_stage
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.results import StageReport


class Dispatcher(Protocol):
    """Runs one stage of a recipe on a store, and returns its report or raises what the stage raised."""

    def __call__(self, stage: str, recipe: Recipe, store: str, run_id: str) -> StageReport:
        """`run_id` is the run that the stage is part of."""


def dispatcher_of(recipe: Recipe, store: str) -> Dispatcher:
    """The dispatcher that a recipe asks for.

    Raises:
        Refusal: when its stages could not be run elsewhere.
    """
    if recipe.placement == "inline":
        return run_stage
    require_absolute(store)
    refuse_relative(recipe)
    _require_server()
    _require_dtype(recipe)
    from flows.deployed.dispatcher import run_on_pool

    return run_on_pool


def _require_server() -> None:
    if "PREFECT_API_URL" not in os.environ or "PREFECT__SERVER_EPHEMERAL" in os.environ:
        raise Refusal(
            where="placement",
            found="deployed, and PREFECT_API_URL names no Prefect server",
            allowed="a server whose workers have been told of the stages by `posttrain deploy`",
            remedy="set PREFECT_API_URL, or placement=inline; `posttrain serve` starts all of it on one machine",
        )


def _require_dtype(recipe: Recipe) -> None:
    """A stage's key holds its arithmetic, and every machine must come to the same key."""
    if recipe.compute.dtype == "auto":
        raise Refusal(
            where="compute.dtype",
            found="auto, which each machine of a deployed run would understand in its own way",
            allowed="float32, bfloat16 or float16",
            remedy="set compute.dtype; a deployment says with `posttrain deploy --dtype` what auto stands for",
        )
