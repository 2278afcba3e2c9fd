"""Before the first step of a preference run its loss is known: a gate against training with a wrong reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from posttrain.data.packing import Example
from posttrain.losses.preference import at_start
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer, TokenScores
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.objectives import Preference
from posttrain.training.unpaired import Unpaired

STEP_0_PAIRS = 8
# Of loss and margin at β up to 0.1; in proportion to β above, since it multiplies what rounding leaves of a log-ratio.
STEP_0_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
# In half precision rounding leaves some 0.025 nats times the root of a response's tokens (SmolLM2-135M in bfloat16), more than
# the tolerance from 100 tokens on: so it is measured, and a mean may be off by this many of its standard errors.
STANDARD_ERRORS = 5.0


@torch.no_grad()
def step_0_gate(scorer: Scorer, objective: Preference) -> None:
    """Policy and reference are equal before the first step, so the loss is known, and rewards and margin are 0.

    The policy is scored as it will be while it trains: what is random then shows, such as dropout. The run's random numbers stay
    as they are.

    Raises:
        RuntimeError: when their means over a few pairs are others: a defect, which would train against a wrong reference.
    """
    pairs, reference = objective.examples[:STEP_0_PAIRS], objective.reference
    assert reference is not None
    # The likelihood of chosen is not known beforehand.
    few = replace(objective, examples=pairs, reference=reference[:STEP_0_PAIRS], sft_weight=0.0)
    apart = _apart(few, [_in_training(scorer, pair) for pair in pairs])
    rounding = _rounding(scorer, few)
    expected = {"loss": at_start(objective.kind, objective.hyperparameters), "margin": 0.0, "reward_chosen": 0.0}
    tolerance = STEP_0_TOLERANCE[scorer.dtype] * max(1.0, 10 * objective.beta)
    allowed = {name: max(tolerance * max(1.0, known), rounding[name]) for name, known in expected.items()}
    if any(not abs(float(apart[name].mean())) <= allowed[name] for name in expected):
        said = ", ".join(
            f"{name} {known + float(apart[name].mean()):.6f} (expected {known:.6f} ± {allowed[name]:.1g})"
            for name, known in expected.items()
        )
        raise RuntimeError(f"step-0 gate: before training {said}: policy and reference differ")


def _apart(objective: Preference, scores: Sequence[TokenScores]) -> dict[str, Tensor]:
    """[pairs] of loss, margin and reward: how far each pair's is from what it is where policy and reference are equal."""
    found = []
    for row, each in enumerate(scores):
        loss, sums = objective.loss(each, [row])
        start = at_start(objective.kind, objective.hyperparameters)
        found.append(torch.stack([loss.cpu() - start, sums["margin"].cpu(), sums["reward_chosen"].cpu()]))
    return dict(zip(("loss", "margin", "reward_chosen"), torch.stack(found).T, strict=True))


def _rounding(scorer: Scorer, objective: Preference) -> dict[str, float]:
    """What rounding alone may leave of the means: of pairs scored one by one against the same pairs scored together, as a
    reference is. 0 in fp32, whose tolerance has room for it.
    """
    if scorer.dtype == torch.float32:
        return {"loss": 0.0, "margin": 0.0, "reward_chosen": 0.0}
    together = replace(objective, reference=score_branches(scorer, objective.examples, scoring_tokens(scorer.device)))
    apart = _apart(together, [replace(scorer([pair]), balance=None) for pair in objective.examples])
    return {name: _allowed(each) for name, each in apart.items()}


@torch.no_grad()
def step_0_gate_unpaired(scorer: Scorer, objective: Unpaired) -> None:
    """The same for KTO: rewards and the divergence are 0.

    Raises:
        RuntimeError: when they are not, over a few answers.
    """
    answers, pairs = objective.examples[:STEP_0_PAIRS], list(objective.elsewhere)[:STEP_0_PAIRS]
    elsewhere, drift = objective.answers.mismatched(pairs), torch.tensor([objective.elsewhere[pair] for pair in pairs])
    beta = objective.weights.beta
    apart, allowed = _moved(scorer, answers, objective.reference[:STEP_0_PAIRS], beta)
    moved, room = _moved(scorer, elsewhere, drift, beta) if pairs else (0.0, 0.0)
    if not (abs(apart) <= allowed and abs(moved) <= room):
        raise RuntimeError(
            f"step-0 gate: before training reward {apart:.6f} (± {allowed:.1g}) and divergence {moved:.6f} (± {room:.1g}) times "
            "beta, expected 0: policy and reference differ"
        )


def _moved(scorer: Scorer, answers: Sequence[Example], reference: Tensor, beta: float) -> tuple[float, float]:
    """The mean reward of answers before training, and how far from 0 it may be."""
    found = torch.cat([_in_training(scorer, each).per_branch().cpu() for each in answers])
    tolerance = STEP_0_TOLERANCE[scorer.dtype] * max(1.0, 10 * beta)
    if scorer.dtype != torch.float32:
        together = score_branches(scorer, answers, scoring_tokens(scorer.device))[:, 0]
        alone = torch.cat([scorer([each]).per_branch().cpu() for each in answers])
        tolerance = max(tolerance, _allowed(beta * (alone - together)))
    return beta * float((found - reference).mean()), tolerance


def _allowed(rounding: Tensor) -> float:
    """How far from 0 the mean of numbers may be that rounding alone has moved by as much as these."""
    return STANDARD_ERRORS * float(rounding.square().mean().sqrt()) / math.sqrt(len(rounding))


def _in_training(scorer: Scorer, example: Example) -> TokenScores:
    """The scores of one example in training mode, on random numbers of their own."""
    training = scorer.training
    devices = [scorer.device] if scorer.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        scores: TokenScores = scorer.train()([example])
    scorer.train(training)
    return replace(scores, balance=None)  # of the router: not a part of what is known beforehand
