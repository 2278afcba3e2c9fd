"""What a training stage is asked for, as a document: this process carries it out itself, or hands it to those that train."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pydantic import ConfigDict, Field

from posttrain.models.policy import Policy
from posttrain.runtime.progress import Progress, current
from posttrain.runtime.store import Built
from schemas.base import Frozen
from schemas.recipe import STAGES, Recipe


class StageRequest(Frozen):
    """One training stage, with all that it needs."""

    # Nobody reads descriptions of its fields, and Python would look for them through the thousands of modules that torch has.
    model_config = ConfigDict(use_attribute_docstrings=False)

    stage: str
    """Name of the stage."""
    train: str
    """The function that trains, as `module:function`, of this request, the section, and the rows as a table."""
    recipe: Recipe
    """The whole recipe."""
    policy: Policy
    """Where training starts."""
    policy_digest: str
    """Its content."""
    rows: Path
    """Table of the training data, in parquet."""
    out: Path
    """Folder that the stage writes into."""
    cache: Path
    """Folder that keeps reference log-probabilities across runs."""
    rewards: dict[str, Path] = Field(default_factory=dict)
    """Folders of reward models for PPO: the stage's under `model`, registered ones under their URI."""

    @property
    def section(self) -> Any:
        """The stage's settings."""
        return self.recipe.section(self.stage)

    @property
    def field(self) -> str:
        """What the section is called in the recipe, for refusals."""
        return STAGES[self.stage].section

    @property
    def progress(self) -> Progress:
        """Who is told how far it is: the reporter of this process."""
        return current()


def carry_out(request: StageRequest) -> Built:
    """Build the stage in this process. torch is imported here, not when a stage is reused."""
    import polars as pl

    built: Built = resolve_name(request.train)(request, request.section, pl.read_parquet(request.rows, glob=False))
    return built
