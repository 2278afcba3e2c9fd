"""Jobs for the loop, and requests for whole training stages, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from posttrain.models.policy import Policy
from posttrain.peft.wrap import wrap
from posttrain.runtime.progress import Quiet
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer
from posttrain.training.batches import by_rows
from posttrain.training.loop import Job
from posttrain.training.objectives import LanguageModelling, Preference
from posttrain.training.request import StageRequest
from schemas.load import validate_recipe
from schemas.recipe import Compute
from schemas.training import Full, Optimization

CPU = torch.device("cpu")
SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6), (7, 8, 3), (4, 2, 9), (6, 5, 5)]  # of prompt, chosen, rejected

WORDS = ["the", "hotel", "was", "clean", "and", "staff", "kind", "write", "a", "review", "of", "hello", "world"]
TRAINING = {
    "sft": {"epochs": 6, "batch_size": 6, "max_length": 64, "learning_rate": 0.003},
    "reward": {"epochs": 6, "batch_size": 6, "max_length": 64, "peft": {"method": "full"}},
    "align": {"algorithm": "dpo", "epochs": 6, "batch_size": 6, "max_length": 64, "peft": {"method": "lora", "r": 4}},
}
TRAINERS = {
    "sft": "posttrain.training.sft:sft",
    "reward": "posttrain.training.reward:reward",
    "align": "posttrain.training.dpo:dpo",
    "kto": "posttrain.training.kto:kto",
}
SECTION = {"sft": "sft", "reward": "reward", "align": "alignment"}


@pytest.fixture
def scorer(tiny_llama, lora):
    """Builds a fresh policy: the same one each time."""

    def build(method: str = "full", dtype: torch.dtype = torch.float32) -> Scorer:
        # Dropout, so that a run which does not restore the random state ends elsewhere.
        spec = {"full": Full(method="full"), "lora": lora(dropout=0.2)}[method]
        changes = {"attention_dropout": 0.2} if method == "full" else {}
        return Scorer(wrap(tiny_llama(**changes), spec, 0, "sft.peft"), CPU, dtype).eval()

    return build


@pytest.fixture
def objective(random_examples, scorer):
    """Builds language modelling or DPO on six pairs."""

    def build(kind: str = "lm"):
        pairs = random_examples(SIZES)
        return LanguageModelling(pairs) if kind == "lm" else Preference(pairs, score_branches(scorer(), pairs, 10**6), beta=0.1)

    return build


@pytest.fixture
def job(tmp_path, scorer, objective):
    """Builds a job of 3 epochs of 3 steps with a point of the curve at each step; `spec` fields may be given as a dict."""

    def build(name: str = "run", method: str = "full", kind: str = "lm", **changes) -> Job:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        cadence = {"log_every": 1, "checkpoint_seconds": 1e6}
        compute = Compute(**cadence | {field: changes.pop(field) for field in cadence if field in changes})
        spec = Optimization(**{"learning_rate": 0.01, "weight_decay": 0.1} | changes.pop("spec", {}))
        defaults = {"plan": by_rows(6, 2, 3, seed=0), "progress": Quiet()}
        defaults |= {"objective": objective(kind), "scorer": scorer(method)}
        return Job(name=name, spec=spec, compute=compute, out=out, **defaults | changes)

    return build


def _turn(role: str, rng: np.random.Generator) -> list[dict[str, str]]:
    return [{"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(2, 12)))}]


def _table(completions: list[str], rows: int = 23) -> pl.DataFrame:
    """Conversations of random words, of different lengths; the last four are held out."""
    rng = np.random.default_rng(0)
    columns = {name: [_turn(role, rng) for _ in range(rows)] for name, role in _roles(completions).items()}
    split = ["train"] * (rows - 4) + ["holdout"] * 4
    return pl.DataFrame({**columns, "split": split, "source": ["pairs.jsonl"] * rows, "row": range(1, rows + 1)})


def _roles(completions: list[str]) -> dict[str, str]:
    return {"prompt": "user", **dict.fromkeys(completions, "assistant")}


@pytest.fixture(scope="session")
def request_of(checkpoint, tmp_path_factory):
    """Builds the request of a stage on 19 rows, 24 steps of 6, 6, 6 and 1; `section` and `compute` add fields."""
    data = tmp_path_factory.mktemp("rows")
    pairs = ["chosen", "rejected"]
    for stage, completions in {"sft": ["completion"], "reward": pairs, "align": pairs}.items():
        _table(completions).write_parquet(data / f"{stage}.parquet")

    def build(stage: str, out: Path, section: dict | None = None, **compute) -> StageRequest:
        out.mkdir(parents=True, exist_ok=True)
        document = {
            "name": "tiny",
            "model": {"source": "local", "path": str(checkpoint)},
            "data": {"instructions": "i.jsonl", "preferences": "p.jsonl"},
            SECTION[stage]: TRAINING[stage] | (section or {}),
            "compute": {"device": "cpu", "log_every": 1, "checkpoint_seconds": 1e6} | compute,
        }
        return StageRequest(
            stage=stage, train=TRAINERS[(section or {}).get("loss", stage)], recipe=validate_recipe(document, "tiny"),
            policy=Policy(str(checkpoint)), policy_digest="tiny", rows=data / f"{stage}.parquet", out=out, cache=out / "cache",
        )  # fmt: skip

    return build


@pytest.fixture(scope="session")
def points():
    """Reads the curve of a stage's folder, without the times."""

    def read(out: Path) -> list[dict[str, float]]:
        found = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
        return [{name: value for name, value in point.items() if name != "seconds"} for point in found]

    return read
