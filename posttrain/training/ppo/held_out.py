"""The reward on held-out prompts while the policy trains: the same prompts and the same random numbers each time."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.training.ppo.rollout import Collector, Prompts
from posttrain.training.validation import REWARD

SEED = 1  # beside the run's: apart from those of the iterations


@dataclass(frozen=True)
class HeldOutRewards:
    """Answers every held-out prompt once with the policy of `collect` as it is when called."""

    collect: Collector
    prompts: Prompts

    def __call__(self) -> dict[str, float]:
        """The mean of what is maximised, without the divergence, and that of each source."""
        scorer, count = self.collect.scorer, len(self.prompts.tokens)
        training = scorer.training
        scorer.eval()
        batch = self.collect.answered(self.prompts, range(count), self.collect.seed + SEED, 1, "held-out responses")
        scorer.train(training)
        scores = batch.scores[~batch.scores.isnan()]
        found = {f"held_out_{name}": value for name, value in batch.rewarded.numbers().items()}
        return {REWARD.metric: float(scores.mean()), **found}
