"""Before the first step of a preference run its loss is known: a gate against training with a wrong reference."""

from __future__ import annotations

from dataclasses import replace

import torch

from posttrain.data.packing import Example
from posttrain.losses.preference import at_start
from posttrain.scoring.scorer import Scorer, TokenScores
from posttrain.training.objectives import Preference
from posttrain.training.unpaired import Unpaired

STEP_0_PAIRS = 8
# Of loss and margin at β up to 0.1; in proportion to β above, since it multiplies what rounding leaves of a log-ratio.
STEP_0_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@torch.no_grad()
def step_0_gate(scorer: Scorer, objective: Preference) -> None:
    """Policy and reference are equal before the first step, so the loss is known, and rewards and margin are 0.

    The policy is scored as it will be while it trains: what is random then shows, such as dropout. The run's random numbers stay
    as they are.

    Raises:
        RuntimeError: when their means over a few pairs are others: a defect, which would train against a wrong reference.
    """
    rows = range(min(STEP_0_PAIRS, len(objective.examples)))
    margin_alone = replace(objective, sft_weight=0.0)  # the likelihood of chosen is not known beforehand
    expected = {"loss": at_start(objective.kind, objective.hyperparameters), "margin": 0.0, "reward_chosen": 0.0}
    found = dict.fromkeys(expected, 0.0)
    for row in rows:
        loss, sums = margin_alone.loss(_in_training(scorer, objective.examples[row]), [row])
        found = {name: found[name] + float({**sums, "loss": loss}[name]) / len(rows) for name in expected}
    tolerance = STEP_0_TOLERANCE[scorer.dtype] * max(1.0, 10 * objective.beta)
    if any(not abs(found[name] - expected[name]) <= tolerance * max(1.0, expected[name]) for name in found):
        said = ", ".join(f"{name} {found[name]:.6f} (expected {expected[name]:.6f})" for name in found)
        raise RuntimeError(f"step-0 gate: before training {said}: policy and reference differ")


@torch.no_grad()
def step_0_gate_unpaired(scorer: Scorer, objective: Unpaired) -> None:
    """The same for KTO: rewards and the divergence are 0.

    Raises:
        RuntimeError: when they are not, over a few answers.
    """
    rows = range(min(STEP_0_PAIRS, len(objective.examples)))
    rewards = [_in_training(scorer, objective.examples[row]).per_branch().cpu() - objective.reference[row] for row in rows]
    apart = objective.weights.beta * float(torch.cat(rewards).mean())
    pairs = list(objective.elsewhere)[: len(rows)]
    elsewhere = [_in_training(scorer, each).per_branch().cpu() for each in objective.answers.mismatched(pairs)]
    drift = [float(found) - objective.elsewhere[pair] for found, pair in zip(elsewhere, pairs, strict=True)]
    moved = objective.weights.beta * sum(drift) / max(len(drift), 1)
    tolerance = STEP_0_TOLERANCE[scorer.dtype] * max(1.0, 10 * objective.weights.beta)
    if not max(abs(apart), abs(moved)) <= tolerance:
        raise RuntimeError(
            f"step-0 gate: before training reward {apart:.6f} and divergence {moved:.6f} times beta, expected 0: "
            "policy and reference differ"
        )


def _in_training(scorer: Scorer, example: Example) -> TokenScores:
    """The scores of one example in training mode, on random numbers of their own."""
    training = scorer.training
    devices = [scorer.device] if scorer.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        scores: TokenScores = scorer.train()([example])
    scorer.train(training)
    return replace(scores, balance=None)  # of the router: not a part of what is known beforehand
