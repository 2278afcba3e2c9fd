"""Stage folders as a finished run leaves them, with numbers that the tests know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from posttrain.runtime.store import Built, StageKey, Store
from schemas.recipe import Recipe
from schemas.results import GateReport, ModelReport, RunReport, StageReport

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'single'"
FOOD = (
    "the soup was warm and full of taste",
    "the waiter forgot us twice",
    "a lovely evening, we will come again",
    "cold fries and a long wait",
    "the cake alone is worth the trip",
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Pretrain, SFT, DPO and a registered model; the corpus address carries a password."""
    return Recipe.model_validate(
        {
            "name": "quickstart-dpo",
            "seed": 7,
            "model": {"source": "scratch"},
            "data": {
                "corpus": "s3://reader@bucket/corpus",
                "instructions": "sample://instructions",
                "preferences": "sample://preferences",
            },
            "pretrain": {"tokens": 2_000_000},
            "sft": {},
            "alignment": {"algorithm": "dpo"},
            "evaluation": {
                "judge": {"name": "posttrain.data.samples:sentiment"},
                "gates": {
                    "preference_accuracy": {"min": 0.6},
                    "win_rate_vs_sft": {"lower_bound_above": 0.5},
                    "perplexity_ratio_vs_base": {"max": 1.1},
                    "kl_per_token": {"max": 0.5},
                },
            },
            "registry": {"model": "reviews", "promote_on": "win_rate_vs_sft"},
        }
    )


def _write(folder: Path, files: dict[str, Any]) -> Built:
    for name, content in files.items():
        if isinstance(content, pl.DataFrame):
            content.write_parquet(folder / name)
        elif isinstance(content, list):
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in content))
        else:
            (folder / name).write_text(json.dumps(content))
    outputs = {name.split(".")[0]: name for name in files}
    return Built(outputs=outputs, metrics={"peak_memory_gb": 1.25} if "curve.jsonl" in files else {})


def _contract(rows_in: int, losses: dict[str, int], **more: Any) -> dict[str, Any]:
    lost = sum(losses.values())
    checks = [
        {
            "check": name,
            "severity": "drop",
            "count": n,
            "share": n / rows_in,
            "limit": 0.01,
            "failed": False,
            "examples": [f"pairs.jsonl:{17 * (i + 1)}"],
        }
        for i, (name, n) in enumerate(losses.items())
    ]
    checks.append(
        {"check": "length_bias", "severity": "warn", "count": 0, "share": 0.0, "limit": 0.65, "failed": False, "examples": []}
    )
    kept = rows_in - lost
    return {
        "rows_in": rows_in,
        "kept": kept,
        "quarantined": lost,
        "train": kept - kept // 10,
        "holdout": kept // 10,
        "checks": checks,
        **more,
    }


def _validate() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    edges = list(range(0, 401, 20))
    scales = {"chosen": 30, "rejected": 26}
    lengths = {side: np.histogram(rng.gamma(5, scale, 1800), edges)[0].tolist() for side, scale in scales.items()}
    losses = {"empty": 40, "identical_sides": 25, "prompt_mismatch": 12, "conflict": 8, "duplicate": 61}
    return {
        "summary.json": {
            "preferences": _contract(2000, losses, chosen_longer=0.583, length_histogram={"edges": edges, **lengths}),
            "instructions": _contract(1500, {"empty": 6, "role_order": 14}),
        }
    }


def _filter() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    decades = [0.0, *(m * 10.0**e for e in range(6) for m in (1, 2, 5)), 1e6]

    def metric(values: np.ndarray, low: float | None, high: float | None, bins: Any = 40) -> dict[str, Any]:
        counts, edges = np.histogram(values, bins)
        return {"edges": edges.tolist(), "counts": counts.tolist(), "min": low, "max": high}

    return {
        "summary.json": {
            "documents_in": 12_000,
            "kept": 9_500,
            "rejected": 2_490,
            "quarantined": 10,
            "train": 8_550,
            "holdout": 950,
            "kept_characters": 8_123_456,
            "reasons": {"words": 900, "duplicate": 700, "stop_words": 500, "duplicate_line_share": 300, "hash_per_word": 90},
            "metrics": {
                "words": metric(rng.gamma(4, 40, 12_000), 50, 100_000, decades),
                "mean_word_length": metric(rng.normal(4.8, 0.9, 12_000), 3, 10),
                "duplicate_line_share": metric(rng.beta(0.5, 6, 12_000), None, 0.3),
                "stop_words": metric(rng.integers(0, 9, 12_000).astype(float), 2, None, np.arange(10) - 0.5),
                "alphabetic_word_share": metric(rng.beta(20, 1, 12_000), 0.8, None),
                "bullet_line_share": metric(rng.beta(0.3, 8, 12_000), None, None),
            },
        }
    }


def _curve(steps: int, start: float, end: float, tokens: int, align: bool = False) -> list[dict[str, float]]:
    """`tokens` per step and 0.05 s per step, so that throughput is 20 times `tokens`."""
    rng = np.random.default_rng(steps)
    lines = []
    for step in range(1, steps + 1):
        done = step / steps
        loss = end + (start - end) * float(np.exp(-4 * done)) + float(rng.normal(0, 0.01 * start))
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": 3e-3 * min(1.0, done * 20) * 0.5 * (1 + float(np.cos(np.pi * done))),
            "tokens": step * tokens,
            "seconds": step * 0.05,
        }
        if align:
            line |= {
                "margin": 1.6 * done,
                "accuracy": 0.5 + 0.35 * done,
                "reward_chosen": 0.4 * done,
                "reward_rejected": -1.2 * done,
                "logprob_chosen": -40 + 3 * done,
                "logprob_rejected": -41 - 9 * done,
            }
        if step % (steps // 10) == 0:
            line["validation_loss"] = loss + 0.05
        lines.append(line)
    return lines


def _evaluate() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    columns: dict[str, list[Any]] = {"prompt": [f"Write a short review of restaurant {i}." for i in range(64)]}
    columns["source"] = ["cafes.jsonl"] * 8 + ["hotels.jsonl"] * 56
    for policy, mean in (("base", -0.2), ("sft", 0.1), ("aligned", 0.9)):
        columns[f"response_{policy}"] = [". ".join(rng.choice(FOOD, rng.integers(1, 5))) for _ in range(64)]
        columns[f"reward_{policy}"] = [round(float(x), 3) for x in rng.normal(mean, 0.8, 64)]
    columns["response_aligned"][5], columns["reward_aligned"][5] = HOSTILE, 9.0  # the best sample of all
    columns["response_aligned"][9], columns["reward_aligned"][9] = "worst of all", -9.0
    return {
        "samples.parquet": pl.DataFrame(columns),
        "evaluation.json": {
            "win_rates": [
                {"opponent": "sft", "value": 0.71, "interval": [0.655, 0.765]},
                {"opponent": "base", "value": 0.83, "interval": [0.78, 0.875]},
                {"opponent": "champion", "value": 0.52, "interval": [0.455, 0.585]},
            ],
            "reliability": [
                {"confidence": 0.55, "accuracy": 0.5, "pairs": 40},
                {"confidence": 0.9, "accuracy": 0.95, "pairs": 10},
            ],
            "metrics": [
                {"name": "preference_accuracy", "value": 0.7421, "interval": [0.70, 0.78], "unit": "share of pairs"},
                {"name": "perplexity", "value": 12_345.678, "interval": None, "unit": "per token"},
                {"name": "reward_sft", "value": 0.1, "interval": None, "unit": ""},
                {"name": "calibration_error", "value": 0.04321, "interval": [0.03, 0.06], "unit": "ECE"},
            ],
            "policies": [
                {
                    "policy": "base",
                    "reward": -0.21,
                    "reward_interval": [-0.3, -0.12],
                    "kl_per_token": None,
                    "length": 41.2,
                    "eos_share": 0.62,
                    "perplexity": 12.1,
                },
                {
                    "policy": "sft",
                    "reward": 0.1,
                    "reward_interval": [0.02, 0.18],
                    "kl_per_token": 0.0,
                    "length": 28.4,
                    "eos_share": 0.97,
                    "perplexity": 12.6,
                },
                {
                    "policy": "aligned",
                    "reward": 0.9,
                    "reward_interval": [0.81, 0.99],
                    "kl_per_token": 0.214,
                    "length": 30.9,
                    "eos_share": 0.96,
                    "perplexity": 12.9,
                },
            ],
        },
    }


def _benchmark() -> dict:
    scores = [{"policy": "sft", "value": 0.61, "interval": [0.57, 0.65]}, {"policy": "aligned", "value": 0.6, "interval": None}]
    gap = {"opponent": "sft", "value": -0.01, "interval": [-0.03, 0.01], "gained": 7, "lost": 12, "mcnemar_p": 0.3593}
    told = {"task": "arc_easy", "metric": "acc", "higher_is_better": True, "documents": 500, "shots": 5}
    return {**told, "policies": scores, "differences": [gap]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every stage built through the store, each made from the one before."""
    stages = {
        "validate": _validate(),
        "filter": _filter(),
        "pretrain": {"curve.jsonl": _curve(900, 8.3, 3.1, 4096)},
        "sft": {"curve.jsonl": _curve(120, 3.0, 1.9, 2000)},
        "align": {"curve.jsonl": _curve(200, 0.693, 0.35, 1500, align=True)},
        "evaluate": _evaluate(),
        "benchmark": {"benchmarks.json": {"benchmarks": [_benchmark()]}},
        "register": {"model.json": {"name": "reviews"}},
    }
    store, found, inputs = Store(tmp_path_factory.mktemp("store")), {}, ()
    for stage, files in stages.items():
        stored = store.build(StageKey(stage, 1, {}, inputs), lambda folder, files=files: _write(folder, files))
        found[stage], inputs = stored.folder, (stored.origin(),)
    return found


@pytest.fixture(scope="module")
def run(recipe: Recipe, folders: dict[str, Path]) -> RunReport:
    """A promoted run in which the first two stages were reused."""
    seconds = {"validate": 0.03, "filter": 0.02, "pretrain": 80.0, "sft": 12.34, "align": 21.5, "evaluate": 14.2, "register": 3.1}
    stages = tuple(
        StageReport(
            name=stage,
            key=folders[stage].name,
            reused=stage in ("validate", "filter"),
            seconds=seconds[stage],
            metrics={"peak_memory_gb": 1.25} if stage in ("pretrain", "sft", "align") else {},
            outputs={},
        )
        for stage in recipe.stages
    )
    gates = (
        GateReport(name="preference_accuracy", value=0.7421, interval=(0.7, 0.78), limit={"min": 0.6}, passed=True),
        GateReport(name="win_rate_vs_sft", value=0.71, interval=(0.655, 0.765), limit={"lower_bound_above": 0.5}, passed=True),
        GateReport(name="perplexity_ratio_vs_base", value=1.066, interval=None, limit={"max": 1.1}, passed=True),
        GateReport(name="kl_per_token", value=0.214, interval=(0.2, 0.228), limit={"max": 0.5}, passed=True),
    )
    model = ModelReport(
        name="reviews",
        version="3",
        alias="champion",
        uri="models:/reviews@champion",
        tracking_uri="http://bob:hunter2@mlflow:5000",
    )
    promotion = "Promoted: reviews version 3 is champion, with a win rate of 0.71 (0.655 to 0.765) against sft."
    return RunReport(
        run_id="0123456789abcdef",
        seconds=131.2,
        stages=stages,
        gates=gates,
        model=model,
        report=Path("report.html"),
        promotion=promotion,
    )
