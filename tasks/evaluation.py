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
    """Compare the candidate with its ancestors on rows that no training stage saw, but for those that training leaves out."""
    from posttrain.data.encode import accepted
    from posttrain.evaluation import HeldOut
    from posttrain.evaluation import evaluate as measure
    from posttrain.models import load_tokenizer

    tokenizer = load_tokenizer(chain.policy_before("register"))

    def held_out(stage: str, output: str) -> pl.DataFrame | None:
        present = stage in chain.recipe.stages and output in chain.stored(stage).result.outputs
        return pl.read_parquet(chain.output(stage, output)).filter(split="holdout") if present else None

    def chats(name: str) -> pl.DataFrame | None:
        table = held_out("validate", name)
        return None if table is None else accepted(tokenizer, table)

    rows = HeldOut(held_out("filter", "kept"), chats("instructions"), chats("preferences"))
    return measure(chain.recipe, chain.policies(), rows, out, progress.current(), chain.judging_model())
