"""From what the sides measured to the numbers that are reported: medians, ratios, and whether the losses agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.sides import Measured

DROPPED = 1  # first steps of each process: allocations, thread pools, compilation
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of a loss: the sides round to 8 bits in different places
CLOCKS = ("seconds_per_step", "cpu_seconds_per_step")


def summary(rounds: Sequence[Measured]) -> dict[str, Any]:
    """One side over its rounds: the best round of each step, and of those steps the median.

    Other work on the machine only ever adds time, so the best round is the nearest to the truth, for every side alike.
    """
    first = rounds[0]
    return {
        "seconds_per_step": statistics.median(best([each.seconds for each in rounds])),
        "cpu_seconds_per_step": statistics.median(best([each.cpu_seconds for each in rounds])),
        "reference_seconds_per_step": min(each.reference_seconds for each in rounds) / len(first.losses),
        "reference_cpu_seconds_per_step": min(each.reference_cpu_seconds for each in rounds) / len(first.losses),
        "peak_gb": max(each.peak_gb for each in rounds),
        "before_training_gb": max(each.before_training_gb for each in rounds),
        "gpu_gb": max((each.gpu_gb for each in rounds if each.gpu_gb is not None), default=None),
        "losses": first.losses,
        "note": first.note,
        "facts": first.facts,
    }


def best(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of each step but the dropped ones, in the fastest of the rounds."""
    return [min(step) for step in zip(*rounds, strict=True)][DROPPED:]


def ratios(ours: Mapping[str, Any], peer: Mapping[str, Any], reference_in_step: bool) -> dict[str, float]:
    """How many times faster ours is, and its share of the peer's peak memory.

    Where the peer scores the reference inside the step, ours is charged with what it spent on the reference beforehand. Where
    both score it beforehand, steps are compared with steps, and `times_faster_with_reference` adds it on both sides.
    """
    wall, cpu = (ours[clock] + (ours[f"reference_{clock}"] if reference_in_step else 0.0) for clock in CLOCKS)
    with_reference = [side["seconds_per_step"] + side["reference_seconds_per_step"] for side in (peer, ours)]
    memory = "peak_gb" if ours["gpu_gb"] is None else "gpu_gb"
    return {
        "times_faster": peer["seconds_per_step"] / wall,
        "times_less_cpu": peer["cpu_seconds_per_step"] / cpu,
        "times_faster_with_reference": with_reference[0] / with_reference[1],
        "memory_share": ours[memory] / peer[memory],
    }


def largest_difference(sides: Mapping[str, Sequence[Measured]]) -> float:
    """Largest difference of a loss at any step from the first round of ours; infinite where a loss is missing or not finite."""
    expected = sides["ours"][0].losses
    differences = [0.0]
    for losses in (each.losses for rounds in sides.values() for each in rounds):
        if len(losses) != len(expected):
            return math.inf
        differences += [abs(a - b) for a, b in zip(expected, losses, strict=True)]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def assemble(sides: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """All sides, the ratios of ours to each other one, and how far the losses are apart."""
    summaries = {name: summary(rounds) for name, rounds in sides.items()}
    others = [name for name in sides if name != "ours"]
    return {
        "sides": summaries,
        "ratios": {name: ratios(summaries["ours"], summaries[name], name == "trl_defaults") for name in others},
        "largest_loss_difference": largest_difference(sides),
    }
