"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from schemas.training import Optimization


def learning_rate(step: int, steps: int, spec: Optimization) -> float:
    """Learning rate of step `step` (from 0) of `steps`: linear warm-up to the peak, then cosine or linear to 0, or constant."""
    assert spec.learning_rate is not None  # a stage settles it before it trains
    warmup = round(spec.warmup_share * steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shapes = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
    return spec.learning_rate * shapes[spec.schedule]
