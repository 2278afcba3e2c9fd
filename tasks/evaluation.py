"""The tasks that evaluate, and that run benchmarks."""

from __future__ import annotations

from pathlib import Path

from posttrain.pipeline.chain import Chain
from posttrain.runtime import progress
from posttrain.runtime.store import Built
from tasks.stage import stage_task


@stage_task
def evaluate(chain: Chain, out: Path) -> Built:
    """Compare the candidate with its ancestors on rows that no training stage saw, but for those that training leaves out."""
    from posttrain.evaluation.evaluate import evaluate as measure
    from posttrain.evaluation.held_out import held_out, known_scores

    return measure(
        chain.recipe, chain.policies(), held_out(chain), out, progress.current(), chain.judging_model(), known_scores(chain),
        chain.verdicts,
    )  # fmt: skip


@stage_task
def benchmark(chain: Chain, out: Path) -> Built:
    """Have every policy answer the recipe's tasks of lm-eval, on the same documents."""
    from posttrain.evaluation.benchmarks.stage import benchmark as measure

    return measure(chain, out, progress.current())
