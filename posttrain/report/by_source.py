"""How the candidate does on each source of the held-out prompts, and its worst answers there."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from posttrain.report.samples import Sample, judged, sample_of
from posttrain.statistics.intervals import ratio_interval
from schemas.estimates import Estimate

SOURCES = 12  # that are shown: those with the largest loss


@dataclass(frozen=True)
class OfSource:
    """One source, and the answer on which the candidate loses most."""

    source: str
    answers: int
    reward: float
    """Mean of the candidate's answers."""
    gain: Estimate
    """Mean reward of the candidate less that of the policy before it, answer by answer."""
    worst: Sample


def by_source(frame: pl.DataFrame | None, names: list[str]) -> list[OfSource]:
    """The sources by their gain, the worst first; nothing where answers have no rewards, or the samples no sources."""
    if frame is None or "source" not in frame.columns or len(names) < 2 or judged(frame, names[-2:]) != names[-2:]:
        return []
    opponent, candidate = (f"reward_{name}" for name in names[-2:])
    told = frame.with_columns(difference=pl.col(candidate) - pl.col(opponent)).filter(pl.col("difference").is_finite())
    found = [_of_source(rows, candidate, names) for _, rows in told.group_by("source", maintain_order=True)]
    return sorted(found, key=lambda each: (each.gain.value, each.source))[:SOURCES]


def _of_source(rows: pl.DataFrame, candidate: str, names: list[str]) -> OfSource:
    ordered = rows.sort("difference", maintain_order=True)
    mean = float(rows[candidate].to_numpy().mean())
    return OfSource(str(rows["source"][0]), rows.height, mean, _gain(rows), sample_of(ordered.row(0, named=True), names))


def _gain(rows: pl.DataFrame) -> Estimate:
    """With its interval over prompts, whose answers are not independent of each other; of one prompt it has none."""
    prompts = rows["prompt"].rank("dense").cast(pl.Int64).to_list()
    gain = ratio_interval(rows["difference"].to_list(), groups=[prompt - 1 for prompt in prompts])
    return gain if len(set(prompts)) > 1 else Estimate(gain.value)
