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

    def held_out(stage: str, output: str) -> pl.DataFrame | None:
        present = stage in chain.recipe.stages and output in chain.stored(stage).result.outputs
        return pl.read_parquet(chain.output(stage, output)).filter(split="holdout") if present else None

    rows = HeldOut(held_out("filter", "kept"), held_out("validate", "instructions"), held_out("validate", "preferences"))
    return measure(chain.recipe, chain.policies(), rows, out, progress.current(), chain.judging_model())
