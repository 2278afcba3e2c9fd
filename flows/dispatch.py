"""Where stages run. Nothing else of a run differs between placements."""

from __future__ import annotations

from typing import Protocol

from prefect.client.schemas.objects import State

from flows.stages import STAGE_FLOWS
from schemas.recipe import Recipe
from schemas.results import StageReport


class Dispatcher(Protocol):
    """Runs one stage of a recipe."""

    def __call__(self, stage: str, recipe: Recipe, store: str, run_id: str) -> StageReport:
        """Return when the stage is finished; raise what it raised."""


def inline(stage: str, recipe: Recipe, store: str, run_id: str) -> StageReport:
    """The stage's flow as a subflow in this process."""
    returned = STAGE_FLOWS[stage](recipe, store, run_id)
    return returned.result() if isinstance(returned, State) else returned  # a reused stage returns its state


DISPATCHERS: dict[str, Dispatcher] = {"inline": inline}
