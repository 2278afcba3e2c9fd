"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from schemas.training import Optimization


def learning_rate(step: int, steps: int, spec: Optimization) -> float:
    """Learning rate of step `step` (from 0) of `steps`: linear warm-up to the peak, then cosine or linear to 0, or constant.

    The w = ⌈share · steps⌉ steps of warm-up take k / (w + 1) of the peak, k = 1 … w, so that one step of it is half of the peak.
    """
    assert spec.learning_rate is not None  # a stage settles it before it trains
    warmup = math.ceil(round(spec.warmup_share * steps, 6))  # 0.1 · 30 is 3.0000000000000004
    if step < warmup:
        return spec.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    shapes = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
    return spec.learning_rate * shapes[spec.schedule]
