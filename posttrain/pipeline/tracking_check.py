"""What rules out a tracker beside MLflow or a push to the hub before anything trains: no library, no token."""

from __future__ import annotations

import os
from importlib.util import find_spec

from schemas.errors import Refusal
from schemas.recipe import Recipe

TOKEN = "HF_TOKEN"  # of the environment


def check_hub(recipe: Recipe) -> None:
    """Refuse a push to the hub that cannot be meant: without a token, or where the hub is switched off.

    Raises:
        Refusal: for either.
    """
    if recipe.registry is None or recipe.registry.hub is None:
        return
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline or not os.environ.get(TOKEN):
        raise Refusal(
            where="registry.hub",
            found=f"{recipe.registry.hub}, and {'HF_HUB_OFFLINE=1' if offline else f'no {TOKEN} in the environment'}",
            allowed=f"a repository, with {TOKEN} in the environment of the run",
            remedy=f"set {TOKEN} to a token that may write there, or remove registry.hub",
        )


def check_sinks(recipe: Recipe) -> None:
    """Refuse a tracker whose library is missing. Whether its server answers is its own affair: it keeps what it cannot send.

    Raises:
        Refusal: for the first one.
    """
    for index, name in enumerate(recipe.tracking.also):
        if find_spec(name) is None:
            raise Refusal(
                where=f"tracking.also.{index}",
                found=f"{name}, which is not installed",
                allowed="a tracker whose extra is installed",
                remedy=f"pip install 'posttrain[{name}]', or leave it out",
            )
