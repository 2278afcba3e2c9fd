"""The loss on held-out examples: when it is measured, what is the best so far, and when to stop for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from posttrain.data.packing import micro_batches
from posttrain.runtime.distributed import summed, turns
from posttrain.scoring.scorer import Scorer
from posttrain.training.checkpoint import Position
from posttrain.training.objectives import Compared, Objective, Rounds, StepWide
from schemas.errors import Refusal
from schemas.training import EarlyStop, Optimization


@dataclass(frozen=True)
class Judged:
    """The number by which the weights of a run are told from each other."""

    metric: str
    """Its name in the curve."""
    sign: float
    """1 where less is better, -1 where more is."""
    best: str
    """In words, of the weights that are the best."""


LOSS = Judged("validation_loss", 1.0, "the lowest validation loss")
REWARD = Judged("held_out_reward", -1.0, "the highest held-out reward")

MOST, LEAST = 8, 4
SHARE = 0.1  # of training's time
FORWARD = 1 / 3  # what a row takes without a backward pass, as a part of what it takes with one

HeldOut = Callable[[], dict[str, float]]
"""Answers held-out prompts with the policy as it is; returns `held_out_reward` and what else it measured."""


@torch.no_grad()
def mean_loss(scorer: Scorer, objective: Objective, budget: int, on_rows: Callable[[int], None] = lambda n: None) -> float:
    """Mean loss of an objective over all its examples, without training; processes that train together share the work.

    `on_rows` is told how many examples each piece of work finished.
    """
    training = scorer.training
    scorer.eval()
    rows = range(len(objective.examples))
    if isinstance(objective, StepWide):
        objective.begin(scorer, rows, budget)
    groups = micro_batches(rows, np.array([example.length for example in objective.examples]), budget)
    losses = torch.zeros(len(groups), dtype=torch.float64, device=scorer.device)
    for index, counts, turn in turns(groups):
        loss, _ = objective.loss(scorer([objective.examples[row] for row in groups[index]]), groups[index])
        if counts:
            losses[index] = loss
        on_rows(sum(map(len, turn)))
    scorer.train(training)
    return math.fsum(summed(losses).tolist()) / objective.units(rows)


def loss_at_start(scorer: Scorer, objective: Objective, budget: int, on_rows: Callable[[int], None] = lambda n: None) -> float:
    """The mean loss before the first step. Where policy and reference are still equal it is known, and no pass is spent on it."""
    known = objective.at_start if isinstance(objective, Compared) else None
    if known is not None:
        on_rows(len(objective.examples))
        return known
    return mean_loss(scorer, objective, budget, on_rows)


def validations_of(spec: Optimization, trained: float, held_out: float) -> int:
    """How often to measure: as the recipe says, or by what it costs.

    Args:
        spec: of the stage.
        trained: rows that all steps train on, one row as often as it is trained on.
        held_out: rows behind each measurement.
    """
    if spec.validations is not None:
        return spec.validations
    if spec.early_stop is not None:  # its patience counts them
        return MOST
    affordable = SHARE * trained / (FORWARD * held_out) if held_out else MOST
    return max(LEAST, min(MOST, int(affordable)))


def validation_steps(steps: int, validations: int) -> frozenset[int]:
    """Steps (from 1) after which to measure: `validations` of them, evenly spread, the last step among them."""
    return frozenset(-(-steps * k // validations) for k in range(1, validations + 1))


def at_ends(steps: frozenset[int], rounds: Rounds | None) -> frozenset[int]:
    """The same steps, each moved on to the end of its round where there are rounds."""
    return steps if rounds is None else frozenset(next(filter(rounds.ends, itertools.count(step))) for step in steps)


def is_lowest(position: Position, loss: float) -> bool:
    """Whether a validation loss is lower than all before; one that is not finite is not."""
    return loss < position.best_loss


def enter_loss(position: Position, loss: float, rule: EarlyStop | None) -> None:
    """Enter a validation loss into `position`.

    An improvement is measured from the last improvement, so that a loss which creeps down by less than `min_delta` each time is
    one as soon as the sum of its steps is more.
    """
    if loss < position.level - (rule.min_delta if rule else 0.0):
        position.level, position.stale = loss, 0
    else:
        position.stale += 1
    if is_lowest(position, loss):
        position.best_loss, position.best_step = loss, position.step


def exhausted(position: Position, rule: EarlyStop | None) -> bool:
    """Whether the patience of `rule` is at its end."""
    return rule is not None and position.stale >= rule.patience


def kept(stage: str, spec: Optimization, validation: Objective | None) -> Literal["last", "best"]:
    """Which weights a recipe that does not say means: the best on held-out rows where there are some.

    Pretraining keeps the last: it passes over its corpus about once, and each best would be one more copy of the whole model.
    """
    return spec.keep or ("best" if validation is not None and stage != "pretrain" else "last")


def refuse_unmeasured(
    section: str, spec: Optimization, validation: Objective | HeldOut | None, by: str = "the validation loss"
) -> None:
    """Without held-out examples there is nothing to stop for or to choose by."""
    wanted = {"early_stop": spec.early_stop is not None, "keep": spec.keep == "best"}
    for field in (field for field, asked in wanted.items() if asked and validation is None):
        raise Refusal(
            where=f"{section}.{field}",
            found=f"a choice by {by}, and no held-out rows",
            allowed="held-out rows",
            remedy=f"raise data.holdout, or remove {field}",
        )
