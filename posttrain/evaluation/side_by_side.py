"""Two evaluated models side by side: their numbers, the difference on prompts that both answered, and what decided otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from posttrain.statistics.intervals import ratio_interval, win_rate
from schemas.estimates import Estimate
from schemas.results import Metrics, StageResult

EXTREMES = 3  # prompts shown where B gains most, and where it loses most


@dataclass(frozen=True)
class Side:
    """One model with the results behind it."""

    name: str
    evaluation: Path
    """Folder of its stage evaluate."""
    results: tuple[StageResult, ...]
    """Every stage behind it."""

    @property
    def evaluated(self) -> StageResult:
        """The result of its stage evaluate."""
        return next(result for result in self.results if result.stage == "evaluate")

    def answers(self) -> pl.DataFrame:
        """A line per prompt: `prompt`, the candidate's first `response`, and with a judge the mean `reward` of its answers."""
        table = pl.read_parquet(self.evaluation / "samples.parquet", glob=False)
        candidate = [name.removeprefix("response_") for name in table.columns if name.startswith("response_")][-1]
        columns = [pl.col(f"response_{candidate}").first().alias("response")]
        if f"reward_{candidate}" in table.columns:
            columns.append(pl.col(f"reward_{candidate}").mean().alias("reward"))
        return table.group_by("prompt", maintain_order=True).agg(columns)


def side_by_side(a: Side, b: Side) -> dict[str, Any]:
    """B against A, as a document."""
    shared = a.answers().join(b.answers(), on="prompt", suffix="_b", maintain_order="left")
    judges = [_judge(side) for side in (a, b)]
    judged = judges[0] == judges[1] and {"reward", "reward_b"} <= set(shared.columns)
    shared = shared.drop_nulls(["reward", "reward_b"]) if judged else shared  # on which the judge could say nothing
    return {
        "a": a.name,
        "b": b.name,
        "metrics": _metrics(a.evaluated.metrics, b.evaluated.metrics),
        "common_prompts": shared.height,
        "judge": judges[0] if judges[0] == judges[1] else {"a": judges[0], "b": judges[1]},
        "b_against_a": _paired(shared) if judged and shared.height else None,
        "differs": _differences(a.results, b.results),
        "samples": _samples(shared) if judged else [],
    }


def _judge(side: Side) -> Any:
    return side.evaluated.fields.get("evaluation", {}).get("judge")


def _metrics(a: Metrics, b: Metrics) -> list[dict[str, Any]]:
    """Numbers that either has, with their intervals."""

    def entry(numbers: Metrics, name: str) -> dict[str, Any] | None:
        if name not in numbers:
            return None
        estimate = Estimate.of(numbers, name)
        return {"value": estimate.value, "interval": list(estimate.interval) if estimate.interval else None}

    names = dict.fromkeys(name for name in (*a, *b) if not name.endswith(("_low", "_high")))
    return [{"name": name, "a": entry(a, name), "b": entry(b, name)} for name in names]


def _paired(shared: pl.DataFrame) -> dict[str, Any]:
    """What B wins of the prompts that both answered, and by how much its reward is higher; 95% intervals over prompts."""
    ours, theirs = shared["reward_b"].to_list(), shared["reward"].to_list()
    won, gained = win_rate(ours, theirs), ratio_interval([mine - other for mine, other in zip(ours, theirs, strict=True)])
    return {name: {"value": each.value, "interval": each.interval} for name, each in (("win_rate", won), ("reward", gained))}


def _differences(a: Sequence[StageResult], b: Sequence[StageResult]) -> list[dict[str, Any]]:
    """Fields of the recipe, and inputs by digest, that decided the bytes of a stage and are not the same on both sides."""
    left, right = _deciding(a), _deciding(b)
    names = dict.fromkeys((*left, *right))
    return [{"field": name, "a": left.get(name), "b": right.get(name)} for name in names if left.get(name) != right.get(name)]


def _deciding(results: Sequence[StageResult]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for result in results:
        found |= _flat(result.fields, result.stage)
        outside = {origin.name: origin.digest for origin in result.inputs if origin.name.startswith(("data.", "model"))}
        found |= {f"{result.stage}: {name}": digest for name, digest in outside.items()}
    return found


def _flat(fields: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {f"{prefix}.{name}": value}
    return flat


def _samples(shared: pl.DataFrame) -> list[dict[str, Any]]:
    """Prompts where B gains most, and where it loses most; none is shown twice."""
    ordered = shared.with_columns(gain=pl.col("reward_b") - pl.col("reward")).sort("gain", "prompt", descending=[True, False])
    lost = ordered.tail(min(EXTREMES, max(shared.height - EXTREMES, 0)))
    return [
        {"prompt": row["prompt"], "gain": row["gain"], "a": row["response"], "b": row["response_b"]}
        for row in pl.concat([ordered.head(EXTREMES), lost]).to_dicts()
    ]
