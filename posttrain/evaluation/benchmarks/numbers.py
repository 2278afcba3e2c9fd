"""Scores of policies on a benchmark, and differences between two of them, paired by document, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain.evaluation.benchmarks.harness import Answers
from posttrain.statistics.intervals import ratio_interval, share_interval
from posttrain.statistics.paired import mcnemar
from schemas.estimates import Estimate


def score(answers: Answers) -> Estimate:
    """A policy's score as lm-eval tells it, with its interval over documents."""
    values, weights = answers.values, answers.weights
    if answers.kind == "mean":
        return share_interval(values) if _are_shares(values) else ratio_interval(values)
    mean = ratio_interval([-value for value in values], weights)  # nats for each word or byte
    low, high = (_of_loss(end, answers.kind) for end in (mean.low, mean.high))
    return Estimate(_of_loss(mean.value, answers.kind), (low, high) if mean.interval else None)


def difference(candidate: Answers, other: Answers) -> Estimate:
    """By how much the candidate is better on the same documents: in the metric's unit, or for a perplexity in nats per unit.

    Raises:
        ValueError: when the documents are not the same.
    """
    if candidate.documents != other.documents:
        raise ValueError("the policies answered other documents")
    better = 1.0 if candidate.kind != "mean" or candidate.higher_is_better else -1.0
    gained = [better * (ours - theirs) for ours, theirs in zip(candidate.values, other.values, strict=True)]
    if candidate.kind != "mean":
        return ratio_interval(gained, candidate.weights)
    if _are_shares(candidate.values) and _are_shares(other.values):
        return share_interval(gained, -1, 1)
    return ratio_interval(gained)


def changed(candidate: Answers, other: Answers) -> tuple[int, int] | None:
    """Documents that the candidate alone has right, and those that the other alone has; None unless each is right or wrong."""
    if candidate.kind != "mean" or not {*candidate.values, *other.values} <= {0.0, 1.0}:
        return None
    won = np.asarray(candidate.values) - np.asarray(other.values)
    won = won if candidate.higher_is_better else -won
    return int((won > 0).sum()), int((won < 0).sum())


def of_benchmark(task: str, answers: Mapping[str, Answers]) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """The numbers of a benchmark by name, and the entry that the report reads; the last of `answers` is the candidate."""
    *others, candidate = answers
    ours = answers[candidate]
    scores = {name: score(each) for name, each in answers.items()}
    gaps = {name: difference(ours, answers[name]) for name in others}
    numbers = {f"benchmark_{task}_{name}": each for name, each in scores.items()}
    numbers |= {f"benchmark_{task}_vs_{name}": each for name, each in gaps.items()}
    entry: dict[str, Any] = {
        "task": task, "metric": ours.metric, "higher_is_better": ours.higher_is_better, "shots": ours.shots,
        "documents": len(ours.documents),
        "policies": [{"policy": name, "value": each.value, "interval": each.interval} for name, each in scores.items()],
        "differences": [],
    }  # fmt: skip
    for name, gap in gaps.items():
        told: dict[str, Any] = {"opponent": name, "value": gap.value, "interval": gap.interval}
        if (won := changed(ours, answers[name])) is not None:
            told |= {"gained": won[0], "lost": won[1], "mcnemar_p": mcnemar(*won)}
            numbers[f"benchmark_{task}_vs_{name}_mcnemar_p"] = Estimate(told["mcnemar_p"])
        entry["differences"].append(told)
    return numbers, entry


def _are_shares(values: list[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def _of_loss(nats: float, kind: str) -> float:
    return nats / math.log(2) if kind == "bits" else math.exp(min(nats, 700.0))
