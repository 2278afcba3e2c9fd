"""What a training stage is told to do, as a document: a task carries it out itself, or hands it to the processes that train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from posttrain.models.policy import Policy
from posttrain.runtime.progress import Progress
from posttrain.runtime.store import Built
from schemas.base import Frozen
from schemas.recipe import Recipe

if TYPE_CHECKING:
    import polars as pl

    from posttrain.training.stages import Setting


class Order(Frozen):
    """One training stage, with all that it needs beside the recipe."""

    stage: Literal["pretrain", "sft", "reward", "align"]
    """Name of the stage."""
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


def carry_out(order: Order, progress: Progress) -> Built:
    """Build the stage in this process. torch is imported here, not when a stage is reused."""
    import polars as pl

    from posttrain.training.stages import Setting

    setting = Setting(order.recipe, order.policy, order.policy_digest, order.out, progress)
    return STAGES[order.stage](setting, order, pl.read_parquet(order.rows))


def _pretrain(setting: Setting, order: Order, rows: pl.DataFrame) -> Built:
    from posttrain.training import stages

    assert order.recipe.pretrain
    return stages.pretrain(setting, order.recipe.pretrain, rows)


def _sft(setting: Setting, order: Order, rows: pl.DataFrame) -> Built:
    from posttrain.training import stages

    assert order.recipe.sft
    return stages.sft(setting, order.recipe.sft, rows)


def _reward(setting: Setting, order: Order, rows: pl.DataFrame) -> Built:
    from posttrain.training.reward import reward

    assert order.recipe.reward
    return reward(setting, order.recipe.reward, rows)


def _align(setting: Setting, order: Order, rows: pl.DataFrame) -> Built:
    from posttrain.training.ppo.stage import align_ppo
    from posttrain.training.stages import align
    from schemas.ppo import PPO

    alignment: Any = order.recipe.alignment
    if isinstance(alignment, PPO):
        return align_ppo(setting, alignment, rows, order.rewards)
    return align(setting, alignment, rows, order.cache)


STAGES: dict[str, Callable[[Setting, Order, pl.DataFrame], Built]] = {
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "align": _align,
}
