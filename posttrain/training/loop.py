"""The one training loop: every objective, packed micro-batches, one process or several, exact resume."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.runtime.distributed import any_process, from_main, rank, size, summed, termination
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.peak_memory import give_back
from posttrain.runtime.progress import Progress, counted
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.token_budget import rollout_tokens, training_tokens
from posttrain.training.batches import Plan
from posttrain.training.checkpoint import load_best, load_checkpoint, save_best, save_checkpoint
from posttrain.training.curve import CURVE, Curve
from posttrain.training.data_parallel import passes, replicate
from posttrain.training.nonfinite import Guard, Places, TrainingDiverged
from posttrain.training.objectives import Objective, Rounds, StepWide, Sums
from posttrain.training.optimizer import Apart, Updates
from posttrain.training.schedule import learning_rate
from posttrain.training.validation import (
    LOSS,
    REWARD,
    HeldOut,
    Judged,
    at_ends,
    enter_loss,
    exhausted,
    is_lowest,
    loss_at_start,
    mean_loss,
    validation_steps,
    validations_of,
)
from schemas.recipe import Compute
from schemas.training import Optimization


class TrainingStopped(RuntimeError):
    """A signal to end came while this trained; a checkpoint was written, from which the next run goes on."""


def _by_index(rows: Sequence[int]) -> Sequence[str]:
    return [str(row) for row in rows]


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
    places: Places = _by_index
    rounds: Rounds | None = None  # the objective, where its examples change on the way
    apart: Sequence[Apart] = ()
    held_out: HeldOut | None = None  # in place of `validation`

    @property
    def judged(self) -> Judged:
        """The number by which weights are told from each other."""
        return LOSS if self.held_out is None else REWARD

    @property
    def validations(self) -> int:
        """How often held-out examples are measured, where there are any."""
        if self.validation is None and self.held_out is None:
            return 0
        held_out = len(self.validation.examples) if self.validation else 0
        return validations_of(self.spec, sum(map(len, self.plan)), held_out)

    @functools.cached_property
    def budget(self) -> int:
        """Tokens per micro-batch."""
        tokens = training_tokens if self.rounds is None else rollout_tokens
        return tokens(self.scorer.model, self.scorer.device, self.scorer.dtype)

    def loss(self, forward: torch.nn.Module, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The objective's loss and metrics on some rows, summed over units, scored by `forward`."""
        return self.objective.loss(forward([self.objective.examples[row] for row in rows]), rows)


def train(job: Job) -> dict[str, float]:
    """Run the plan from the newest checkpoint of `job.out` to its end; returns the last numbers of the curve.

    Raises:
        TrainingDiverged: after three steps in a row with a non-finite loss or gradient; names the rows.
        TrainingStopped: on SIGTERM, where several processes train.
        KeyboardInterrupt: on Ctrl-C and on SIGTERM, where one trains whose entry point owns its signals; after a checkpoint.
    """
    run, name = _Run(job), f"{job.name} training"
    run.measure_start()
    give_back()  # what scoring the reference took
    job.progress.start(name, len(job.plan))
    if run.begun:
        job.progress.advance(run.begun, {})
    run.replica.scorer.train()
    with termination(lambda: job.progress.note("stopping after this step, with a checkpoint; once more stops at once")) as asked:
        while not run.over:
            run.step(asked)
    run.finish()
    job.progress.end(name)
    return run.summary()


class _Run:
    """The state of a run between steps."""

    def __init__(self, job: Job) -> None:
        self.job, self.spec, self.budget = job, job.spec, job.budget  # counted before the weights are sharded
        self.replica = replicate(job.scorer, job.compute.strategy)
        forward = self.replica.forward
        self.replica.warm_up(lambda: job.rounds.trial(forward) if job.rounds else job.loss(forward, [0])[0])
        if size() > 1:  # dropout must differ between processes
            torch.manual_seed(torch.initial_seed() + rank())
        self.model = self.replica.scorer.model
        self.updates = Updates(self.replica.scorer, job.spec, job.apart)
        self.checkpoints = from_main(job.out / CHECKPOINT)
        self.position = load_checkpoint(self.checkpoints, self.model, self.updates.optimizer, self.updates.scaler, job.rounds)
        self.begun = self.position.step
        self.guard = Guard(self.position, self.updates.scaler, job.places)
        self.curve = Curve(job.out / CURVE, self.position.step)
        self.lengths = self._lengths()
        self.metrics: dict[str, Tensor] = {}
        self.validations = at_ends(validation_steps(len(job.plan), job.validations), job.rounds)
        self.saved_at = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether no further step is taken."""
        ended = self.job.rounds is not None and bool(self.job.rounds.over)
        return ended or self.position.step >= len(self.job.plan) or exhausted(self.position, self.spec.early_stop)

    def measure_start(self) -> None:
        """What training must improve on, measured before the first step; the result where no step does."""
        job, position = self.job, self.position
        if not self.validations or position.step:
            return
        loss, numbers = self._held_out(at_start=True)
        if not math.isfinite(loss):
            return
        enter_loss(position, loss, self.spec.early_stop)
        if self.spec.keep == "best":
            save_best(self.checkpoints, self.model, position.step)
        self.curve.add(position, {**numbers, f"{job.judged.metric}_start": numbers[job.judged.metric]})

    def _held_out(self, at_start: bool = False) -> tuple[float, dict[str, float]]:
        """What is lowered on held-out examples, and the numbers for the curve."""
        job, validation, scorer = self.job, self.job.validation, self.replica.scorer
        if job.held_out is not None:
            numbers = job.held_out()
        else:
            assert validation
            what = f"{job.name}: held-out loss at the start"
            loss = (
                loss_at_start(scorer, validation, self.budget, counted(job.progress, what, len(validation.examples)))
                if at_start
                else mean_loss(scorer, validation, self.budget)
            )
            numbers = {LOSS.metric: loss}
        self.replica.rest()
        return job.judged.sign * numbers[job.judged.metric], numbers

    def step(self, asked_to_stop: Callable[[], bool]) -> None:
        """One optimizer step, and what is due after it: a report, a point of the curve, a validation, a checkpoint."""
        job, position, started = self.job, self.position, time.monotonic()
        rate = learning_rate(position.step, len(job.plan), job.spec)
        wanted = self._entered(position.step)
        position.step += 1
        if wanted:
            rows = job.plan[position.step - 1]
            position.tokens += int(self.lengths[rows].sum())
            self.metrics = self._update(rows, rate)
        last = position.step == len(job.plan)
        stop, save = any_process(asked_to_stop(), started - self.saved_at >= job.compute.checkpoint_seconds)
        point = last or position.step in self.validations or self._is_due(position.step)
        first = position.step == self.begun + 1  # a person waits for it
        # The one place where numbers leave the device.
        numbers = self._numbers(self.metrics) if (point or first or save or stop) and self.guard.settle() else {}
        position.seconds += time.monotonic() - started
        if position.step in self.validations:
            save |= self._validate(numbers)
        if point:
            self.curve.add(position, {**numbers, "learning_rate": rate})
        job.progress.advance(position.step, numbers)
        if stop or (save and not last):
            save_checkpoint(self.checkpoints, self.model, self.updates.optimizer, position, self.updates.scaler, job.rounds)
            self.saved_at = time.monotonic()
        if stop and not last:
            raise TrainingStopped(f"stopped after step {position.step} of {len(job.plan)}; run again to go on from there")

    def _entered(self, step: int) -> bool:
        """Have the objective collect its examples where a round begins; False where the round wants no further step."""
        if self.job.rounds is None:
            return True
        wanted = self.job.rounds.enter(step)
        self.lengths = self._lengths()
        return wanted

    def _lengths(self) -> NDArray[np.int64]:
        return np.array([example.length for example in self.job.objective.examples])

    def _is_due(self, step: int) -> bool:
        """Whether the curve gets a point after this step: where a round ends, or after the first and every so many steps."""
        return self.job.rounds.ends(step) if self.job.rounds else step == 1 or step % self.job.compute.log_every == 0

    def _update(self, rows: Sequence[int], rate: float) -> dict[str, Tensor]:
        """Train on `rows`; metrics per unit on the device, each the sum of this process's share."""
        units = self.job.objective.units(rows)
        if isinstance(self.job.objective, StepWide):
            self.job.objective.begin(self.replica.scorer, rows, self.budget)
            self.replica.rest()
        sums: dict[str, Tensor] = {}
        for each in passes(rows, self.lengths, self.budget):
            with self.replica.accumulating(each.last):
                loss, extra = self.job.loss(self.replica.forward, each.rows)
                self.updates.backward(loss / units if each.counts else loss * 0)
            for name, value in {"loss": loss.detach(), **extra}.items():
                counted = value if each.counts else torch.zeros_like(value)
                sums[name] = sums[name] + counted if name in sums else counted
        loss = summed(sums["loss"].clone())
        if self.job.rounds:  # which makes means over more than this step
            self.job.rounds.add({name: sums.pop(name) for name in [*sums] if name != "loss"})
            self.updates.leave_out(self.job.rounds.idle)
        norms, skipped = self.updates.take(rate, loss, self.position.step, len(self.job.plan))
        self.guard.watch(self.position.step, rows, skipped, loss)
        return {name: value / units for name, value in sums.items()} | {name: norm / size() for name, norm in norms.items()}

    def _numbers(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        values = summed(torch.stack([value.float() for value in metrics.values()])).tolist() if metrics else []
        numbers = dict(zip(metrics, values, strict=True))  # none where a round's last steps were left out after a resume
        return numbers | (self.job.rounds.numbers() if self.job.rounds else {})

    def _validate(self, numbers: dict[str, float]) -> bool:
        """Add what held-out examples say to `numbers` where it is finite; returns whether the weights are the best and kept."""
        loss, found = self._held_out()
        if math.isfinite(loss):
            numbers.update(found)
        best = self.spec.keep == "best" and is_lowest(self.position, loss)
        enter_loss(self.position, loss, self.spec.early_stop)
        if best:
            save_best(self.checkpoints, self.model, self.position.step)
        return best

    def finish(self) -> None:
        """Leave the weights that the recipe asks for in the job's scorer, ready to score."""
        position = self.position
        if position.skipped + position.overflows == position.step:
            raise TrainingDiverged(f"every one of the {position.step} steps was skipped: loss or gradient was never finite")
        if position.step < len(self.job.plan):
            why = f": {self.job.rounds.over}" if self.job.rounds and self.job.rounds.over else ""
            self.job.progress.note(f"{self.job.name}: stopped early after step {position.step} of {len(self.job.plan)}{why}")
        if self._takes_best():
            load_best(self.checkpoints, self.model, position.best_step)
            self.job.progress.note(f"{self.job.name}: the weights of step {position.best_step} had {self.job.judged.best}")
        self.replica.hand_over(self.job.scorer)
        self.job.scorer.eval()

    def _takes_best(self) -> bool:
        """Whether the result is weights from before the last step; from before the first where no step lowered the loss."""
        position = self.position
        return self.spec.keep == "best" and math.isfinite(position.best_loss) and position.best_step < position.step

    def summary(self) -> dict[str, float]:
        """The latest value of every number, the totals of the run, and what its course led to.

        `validation_loss` is that of the weights that are the result, `validation_loss_last` that after the last step; in PPO it
        is `held_out_reward`.
        """
        position, final, judged_by = self.position, self.curve.summary(self.position), self.job.judged
        lowest = judged_by.sign * position.best_loss
        if self._takes_best():
            final |= {judged_by.metric: lowest, f"{judged_by.metric}_last": final[judged_by.metric]}
        judged = (self.spec.keep == "best" or self.spec.early_stop is not None) and math.isfinite(position.best_loss)
        best = {"best_step": position.best_step, f"best_{judged_by.metric}": lowest} if judged else {}
        overflows = {"overflow_steps": position.overflows} if self.updates.scaler.is_enabled() else {}
        return {**final, **best, **overflows}
