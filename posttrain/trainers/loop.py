"""The one training loop: every objective, packed micro-batches, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.packing import micro_batches
from posttrain.peft.wrap import trainable_state
from posttrain.progress import Progress
from posttrain.scoring import Scorer
from posttrain.store import CHECKPOINT
from posttrain.trainers.checkpoint import Position, load_checkpoint, save_checkpoint
from posttrain.trainers.objectives import Objective
from posttrain.trainers.plan import Plan
from posttrain.trainers.schedule import learning_rate
from schemas.recipe import Compute
from schemas.training import Optimization

# Tokens per forward and backward pass: large enough to fill the device, small enough for its memory.
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
MAX_SKIPPED_IN_A_ROW = 3
VALIDATIONS = 8  # per run
CURVE = "curve.jsonl"


class TrainingDiverged(RuntimeError):
    """Loss or gradient was not finite in several steps in a row."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    name: str
    scorer: Scorer
    objective: Objective
    plan: Plan
    spec: Optimization
    compute: Compute
    out: Path
    progress: Progress
    validation: Objective | None = None

    @property
    def budget(self) -> int:
        """Tokens per micro-batch."""
        return token_budget(self.scorer.device)


def token_budget(device: torch.device) -> int:
    """Tokens per forward and backward pass on a device."""
    return MICRO_BATCH_TOKENS[device.type]


def train(job: Job) -> dict[str, float]:
    """Run the plan from the newest checkpoint of `job.out` to its end; returns the last numbers of the curve.

    Raises:
        TrainingDiverged: after three steps in a row with a non-finite loss or gradient; names the rows.
    """
    optimizer = make_optimizer(job.scorer.model, job.spec)
    checkpoints = job.out / CHECKPOINT
    position = load_checkpoint(checkpoints, job.scorer.model, optimizer)
    curve = Curve(job.out / CURVE, position.step)
    lengths = np.array([example.length for example in job.objective.examples])
    job.progress.start(job.name, len(job.plan))
    job.scorer.train()
    saved_at = time.monotonic()
    validate_every = max(1, len(job.plan) // VALIDATIONS)
    for step in range(position.step, len(job.plan)):
        started = time.monotonic()
        rows = job.plan[step]
        rate = learning_rate(step, len(job.plan), job.spec)
        sums = _step(job, optimizer, rows, lengths, rate)
        position.in_a_row = 0 if sums else position.in_a_row + 1
        _stop_if_diverged(position.in_a_row, step, rows)
        position.step, position.skipped = step + 1, position.skipped + (not sums)
        position.tokens += int(lengths[rows].sum())
        position.seconds += time.monotonic() - started
        last = position.step == len(job.plan)
        validate = job.validation is not None and (last or position.step % validate_every == 0)
        if last or validate or position.step % job.compute.log_every == 0:  # the one place where numbers leave the device
            metrics = {name: float(value) for name, value in sums.items()} | (_validation_loss(job) if validate else {})
            curve.add(position, {**metrics, "learning_rate": rate})
            job.progress.advance(position.step, metrics)
        if not last and time.monotonic() - saved_at >= job.compute.checkpoint_seconds:
            save_checkpoint(checkpoints, job.scorer.model, optimizer, position)
            saved_at = time.monotonic()
    if position.skipped == position.step:
        raise TrainingDiverged(f"every one of the {position.step} steps was skipped: loss or gradient was never finite")
    job.scorer.eval()
    return curve.summary(position)


def _validation_loss(job: Job) -> dict[str, float]:
    """The loss on held-out examples, where there are some and it is finite."""
    loss = mean_loss(job.scorer, job.validation, job.budget) if job.validation else math.nan
    return {"validation_loss": loss} if math.isfinite(loss) else {}


def make_optimizer(model: nn.Module, spec: Optimization) -> torch.optim.AdamW:
    """Fused AdamW over the trainable tensors; weight decay on matrices only."""
    parameters = list(trainable_state(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=spec.learning_rate, betas=(0.9, 0.95), fused=True)


def _step(job: Job, optimizer: torch.optim.Optimizer, rows: Sequence[int], lengths: np.ndarray, rate: float) -> dict[str, Tensor]:
    """One optimizer step over `rows`; empty when it was skipped because loss or gradient was not finite."""
    units = job.objective.units(rows)
    sums: dict[str, Tensor] = {}
    for group in micro_batches(rows, lengths, job.budget):
        loss, extra = job.objective.loss(job.scorer([job.objective.examples[row] for row in group]), group)
        (loss / units).backward()
        for name, value in {"loss": loss.detach(), **extra}.items():
            sums[name] = sums[name] + value if name in sums else value
    norm = torch.nn.utils.clip_grad_norm_(trainable_state(job.scorer.model).values(), job.spec.max_grad_norm)
    finite = bool(torch.isfinite(norm + sums["loss"]))
    if finite:
        for group_options in optimizer.param_groups:
            group_options["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {**{name: value / units for name, value in sums.items()}, "grad_norm": norm} if finite else {}


def _stop_if_diverged(in_a_row: int, step: int, rows: Sequence[int]) -> None:
    if in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise TrainingDiverged(
            f"loss or gradient was not finite in {in_a_row} steps in a row, the last at step {step + 1} "
            f"on training rows {list(rows)}; lower learning_rate, or look at these rows"
        )


@torch.no_grad()
def mean_loss(scorer: Scorer, objective: Objective, budget: int) -> float:
    """Mean loss of an objective over all its examples, without training."""
    training = scorer.training
    scorer.eval()
    rows = range(len(objective.examples))
    lengths = np.array([example.length for example in objective.examples])
    total = 0.0
    for group in micro_batches(rows, lengths, budget):
        loss, _ = objective.loss(scorer([objective.examples[row] for row in group]), group)
        total += float(loss)
    scorer.train(training)
    return total / objective.units(rows)


class Curve:
    """The training curve as JSON lines; a resumed run drops the points after its checkpoint and goes on."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step] if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in kept))
        self.last: dict[str, float] = json.loads(kept[-1]) if kept else {}

    def add(self, position: Position, metrics: dict[str, float]) -> None:
        """Append one point."""
        self.last = {
            **self.last,
            "step": position.step,
            "tokens": position.tokens,
            "seconds": round(position.seconds, 3),
            **metrics,
        }
        point = {name: self.last[name] for name in ("step", "tokens", "seconds", *metrics)}
        with self.path.open("a") as stream:
            stream.write(json.dumps(point) + "\n")

    def summary(self, position: Position) -> dict[str, float]:
        """The latest value of every number, and the totals of the run."""
        rate = position.tokens / position.seconds if position.seconds else math.nan
        final = {
            name: value for name, value in self.last.items() if name not in {"step", "seconds", "learning_rate", "grad_norm"}
        }
        return {**final, "steps": position.step, "skipped_steps": position.skipped, "tokens_per_second": round(rate, 1)}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a crash
