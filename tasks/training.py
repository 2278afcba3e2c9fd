"""The tasks that train: pretrain, SFT, reward, align. torch is imported when a stage is built, not when it is reused."""

from __future__ import annotations

from pathlib import Path

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.stages import WORK
from posttrain.runtime.store import Built
from posttrain.training.launch.launcher import launch
from posttrain.training.request import StageRequest, carry_out
from tasks.stage import stage_task


@stage_task
def pretrain(chain: Chain, out: Path) -> Built:
    """Next-token prediction on the kept documents."""
    return train(chain, "pretrain", out)


@stage_task
def sft(chain: Chain, out: Path) -> Built:
    """Supervised fine-tuning on the instructions."""
    return train(chain, "sft", out)


@stage_task
def reward(chain: Chain, out: Path) -> Built:
    """A reward model on the preference pairs."""
    return train(chain, "reward", out)


@stage_task
def align(chain: Chain, out: Path) -> Built:
    """Preference pairs against the reference (DPO), or rewards of the policy's own responses (PPO)."""
    return train(chain, "align", out)


def train(chain: Chain, stage: str, out: Path) -> Built:
    """Build a stage in this process, or in several where the recipe asks for them."""
    trainer = WORK[stage].train
    assert trainer
    request = StageRequest(
        stage=stage,
        train=trainer(chain.recipe),
        recipe=chain.recipe,
        policy=chain.start(stage),
        policy_digest=",".join(origin.digest for origin in chain.start_origins(stage)),
        rows=chain.rows(stage),
        out=out,
        cache=chain.store.root / "cache" / "reference-logprobs",
        rewards=chain.reward_folders() if stage == "align" else {},
    )
    return launch(request) if chain.recipe.compute.num_processes > 1 else carry_out(request)
