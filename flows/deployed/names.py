"""What deployments, runs and tags of this project are called in Prefect."""

from __future__ import annotations

from schemas.recipe import Recipe
from tasks.exchange import CHAIN

DEPLOYMENT = "posttrain"
"""Of every stage, and of the chain for any recipe; a recipe's own deployment has the recipe's name."""
TAG = "posttrain"
STORE = "POSTTRAIN_STORE"
"""Variable of a run's process with its store, for the time in which nobody can ask the server for it."""
POOLS = {"cpu": "cpu", "gpu": "gpu"}
"""Names of the work pools by kind of machine, where the user gives none."""
REFUSED, GATE, SKIPPED = "Refused", "GateRefused", "Skipped"
"""States in which a run ends by itself: two kinds of failure, and a scheduled run that found an earlier one still going."""


def deployment_of(flow: str, name: str = DEPLOYMENT) -> str:
    """As Prefect writes it."""
    return f"{flow}/{name}"


def run_name(recipe: str, stage: str, attempt: int = 1) -> str:
    """Of the flow run of a stage."""
    return f"{recipe} {stage}" + (f" (attempt {attempt})" if attempt > 1 else "")


def tags_of(recipe: Recipe, stage: str = CHAIN, key: str | None = None) -> list[str]:
    """By which runs are found in the UI."""
    return [TAG, f"recipe:{recipe.name}", f"stage:{stage}", *([f"key:{key}"] if key else [])]
