"""The training curve as JSON lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

from posttrain.training.checkpoint import Position

CURVE = "curve.jsonl"


class Curve:
    """A curve on disk: a resumed run drops the points after its checkpoint and goes on; one that starts over drops all."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step] if step and path.exists() else []
        path.write_text("".join(f"{line}\n" for line in kept))
        self.last: dict[str, float] = {name: value for line in kept for name, value in json.loads(line).items()}

    def add(self, position: Position, metrics: dict[str, float]) -> None:
        """Append one point."""
        point = {"step": position.step, "tokens": position.tokens, "seconds": round(position.seconds, 3), **metrics}
        self.last |= point
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
