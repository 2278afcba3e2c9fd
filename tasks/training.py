"""The tasks that train: pretrain, SFT and alignment. torch is imported when a stage is built, not when it is reused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from posttrain import progress
from posttrain.chain import Chain
from posttrain.store import Built
from schemas.training import DPO
from tasks.stage import stage_task

if TYPE_CHECKING:
    from posttrain.trainers.stages import Setting


@stage_task
def pretrain(chain: Chain, out: Path) -> Built:
    """Next-token prediction on the kept documents."""
    from posttrain.trainers import stages

    assert chain.recipe.pretrain
    return stages.pretrain(
        _setting(chain, "pretrain", out), chain.recipe.pretrain, pl.read_parquet(chain.output("filter", "kept"))
    )


@stage_task
def sft(chain: Chain, out: Path) -> Built:
    """Supervised fine-tuning on the instructions."""
    from posttrain.trainers import stages

    assert chain.recipe.sft
    return stages.sft(_setting(chain, "sft", out), chain.recipe.sft, pl.read_parquet(chain.output("validate", "instructions")))


@stage_task
def align(chain: Chain, out: Path) -> Built:
    """Direct preference optimisation on the preference pairs."""
    from posttrain.trainers import stages

    assert isinstance(chain.recipe.alignment, DPO)
    pairs = pl.read_parquet(chain.output("validate", "preferences"))
    cache = chain.store.root / "cache" / "reference-logprobs"
    return stages.align(_setting(chain, "align", out), chain.recipe.alignment, pairs, cache)


def _setting(chain: Chain, stage: str, out: Path) -> Setting:
    from posttrain.trainers.stages import Setting

    weights = ",".join(origin.digest for origin in chain.policy_origins(stage))
    return Setting(chain.recipe, chain.policy_before(stage), weights, out, progress.current())
