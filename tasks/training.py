"""The tasks that train: pretrain, SFT, reward, align. torch is imported when a stage is built, not when it is reused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from posttrain.pipeline.chain import Chain
from posttrain.runtime import progress
from posttrain.runtime.store import Built
from posttrain.training.launch.launcher import launch
from posttrain.training.launch.request import Order, carry_out
from tasks.stage import stage_task


@stage_task
def pretrain(chain: Chain, out: Path) -> Built:
    """Next-token prediction on the kept documents."""
    return _train(chain, "pretrain", chain.output("filter", "kept"), out)


@stage_task
def sft(chain: Chain, out: Path) -> Built:
    """Supervised fine-tuning on the instructions."""
    return _train(chain, "sft", chain.output("validate", "instructions"), out)


@stage_task
def reward(chain: Chain, out: Path) -> Built:
    """A reward model on the preference pairs."""
    return _train(chain, "reward", chain.output("validate", "preferences"), out)


@stage_task
def align(chain: Chain, out: Path) -> Built:
    """Preference pairs against the reference (DPO), or rewards of the policy's own responses (PPO)."""
    return _train(chain, "align", chain.output("validate", chain.recipe.prompts_table), out)


def _train(chain: Chain, stage: Literal["pretrain", "sft", "reward", "align"], rows: Path, out: Path) -> Built:
    """Build a stage in this process, or in several where the recipe asks for them."""
    of_policy = stage != "reward"
    origins = chain.policy_origins(stage) if of_policy else chain.reward_origins()
    order = Order(
        stage=stage,
        recipe=chain.recipe,
        policy=chain.policy_before(stage) if of_policy else chain.reward_start(),
        policy_digest=",".join(origin.digest for origin in origins),
        rows=rows,
        out=out,
        cache=chain.store.root / "cache" / "reference-logprobs",
        rewards=chain.reward_folders() if stage == "align" else {},
    )
    build = launch if chain.recipe.compute.num_processes > 1 else carry_out
    return build(order, progress.current())
