"""The task that evaluates."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from posttrain import progress
from posttrain.chain import Chain
from posttrain.store import Built
from tasks.stage import stage_task


@stage_task
def evaluate(chain: Chain, out: Path) -> Built:
    """Compare the candidate with its ancestors on rows that no training stage saw."""
    from posttrain.evaluation import HeldOut
    from posttrain.evaluation import evaluate as measure

    rows = HeldOut(
        held_out(chain, "filter", "kept"), held_out(chain, "validate", "instructions"), held_out(chain, "validate", "preferences")
    )
    return measure(chain.recipe, chain.policies(), rows, out, progress.current(), chain.judging_model())


def held_out(chain: Chain, stage: str, output: str) -> pl.DataFrame | None:
    """The held-out rows of a stage's table, where the run has it."""
    present = stage in chain.recipe.stages and output in chain.stored(stage).result.outputs
    return pl.read_parquet(chain.output(stage, output)).filter(split="holdout") if present else None
