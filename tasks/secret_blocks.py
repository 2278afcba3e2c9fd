"""Keys that a recipe leaves to Prefect: read from Secret blocks of the server, into the environment of the run's processes."""

from __future__ import annotations

import os

from posttrain.runtime.endpoint_address import variable_of
from schemas.endpoint import BLOCK
from schemas.errors import Refusal
from schemas.recipe import Recipe
from schemas.recipe_endpoints import endpoints
from schemas.secrets import used


def read_blocks(recipe: Recipe) -> None:
    """Read the blocks that endpoints name as their `key` and that were not read yet; no log shows their values from then on.

    Raises:
        Refusal: when the server has no such block.
    """
    for where, endpoint in endpoints(recipe):
        if endpoint.key is None or not endpoint.key.startswith(BLOCK):
            continue
        variable = variable_of(endpoint.key)
        used.add(variable)
        if not os.environ.get(variable):
            os.environ[variable] = _value(endpoint.key.removeprefix(BLOCK), f"{where}.key")


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
