"""What happens to steps whose loss or gradient is not finite: they are skipped and counted, and too many in a row end the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from posttrain.training.checkpoint import Position

MAX_SKIPPED_IN_A_ROW = 3

Places = Callable[[Sequence[int]], Sequence[str]]
"""Names rows of the training data."""


class TrainingDiverged(RuntimeError):
    """Loss or gradient was not finite in several steps in a row."""


class Guard:
    """Remembers on the device how each step ended, so that the host need not wait for it before the next one.

    Args:
        position: whose counts are kept.
        scaler: its loss scale, where it has one. A gradient that overflows under the scale is no divergence: the scale halves.
        places: names the rows in an error.
    """

    def __init__(self, position: Position, scaler: torch.amp.GradScaler, places: Places) -> None:
        self.position, self.scaler, self.places = position, scaler, places
        self.pending: list[tuple[int, Sequence[int], Tensor]] = []
        self.taken = True  # the last step that was settled

    def watch(self, step: int, rows: Sequence[int], skipped: Tensor, loss: Tensor) -> None:
        """Note how step `step` (from 1) over `rows` ended; `skipped` is 1 where it was not taken."""
        self.pending.append((step, rows, torch.stack([skipped, torch.isfinite(loss).float()])))

    def settle(self) -> bool:
        """Count the steps since the last call, in one transfer from the device; returns whether the last step was taken.

        Raises:
            TrainingDiverged: after three steps in a row that were not finite; names the rows of the last one.
        """
        if not self.pending:
            return self.taken
        outcomes = torch.stack([outcome for _, _, outcome in self.pending]).tolist()
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() >= 1
        for (step, rows, _), (skipped, loss_is_finite) in zip(self.pending, outcomes, strict=True):
            self._count(step, rows, bool(skipped), overflow=scaled and bool(loss_is_finite))
        self.pending.clear()
        self.taken = not outcomes[-1][0]
        return self.taken

    def _count(self, step: int, rows: Sequence[int], skipped: bool, overflow: bool) -> None:
        position = self.position
        if not skipped:
            position.in_a_row = 0
        elif overflow:
            position.overflows += 1
        else:
            position.skipped, position.in_a_row = position.skipped + 1, position.in_a_row + 1
        if position.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDiverged(
                f"loss or gradient was not finite in {position.in_a_row} steps in a row, the last at step {step} "
                f"on training rows {', '.join(self.places(rows))}; lower learning_rate, or look at these rows"
            )
