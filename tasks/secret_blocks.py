"""Keys that a recipe leaves to Prefect: read from Secret blocks of the server, into the environment of the run's processes."""

from __future__ import annotations

import os

from posttrain.runtime.endpoint_address import variable_of
from schemas.endpoint import BLOCK, Endpoint
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.secrets import used


def read_blocks(recipe: Recipe) -> None:
    """Read the block of `evaluation.judge.key`, where it names one that was not read yet; no log shows its value from then on.

    Raises:
        Refusal: when the server has no such block.
    """
    judge = recipe.evaluation.judge
    if not isinstance(judge, Endpoint) or judge.key is None or not judge.key.startswith(BLOCK):
        return
    variable = variable_of(judge.key)
    used.add(variable)
    if not os.environ.get(variable):
        os.environ[variable] = _value(judge.key.removeprefix(BLOCK), "evaluation.judge.key")


def _value(name: str, where: str) -> str:
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]  # outside of an event loop it is no coroutine
    except ValueError as error:  # what Prefect raises where there is no such block
        raise Refusal(
            where=where,
            found=f"block://{name}, and no such block",
            allowed="a Secret block of the Prefect server that this run uses",
            remedy=f"Secret(value=...).save({name!r}), or put the key into the environment and write ${{NAME}}",
        ) from error
