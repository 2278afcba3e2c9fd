"""The task of quickstart-ppo for `bench estimators`: from a finished run's SFT policy, by its reward model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from bench.estimators import Curve, read_curve
from posttrain.models.policy import Policy
from posttrain.training.ppo.stage import ppo
from posttrain.training.request import StageRequest
from schemas.errors import Refusal
from schemas.load import validate_recipe

RECIPE = Path(__file__).resolve().parents[1] / "deployments" / "recipes" / "quickstart-ppo.yaml"
SIZE = {"rollouts": 64, "minibatches": 4, "held_out_prompts": 128, "validations": 5}


def run(method: dict[str, Any], seed: int, iterations: int, out: Path, store: str | None) -> Curve:
    """Align with one method; what counts is the reward of answers to held-out prompts."""
    document = yaml.safe_load(RECIPE.read_text())
    document["alignment"] |= SIZE | {"iterations": iterations} | method
    recipe = validate_recipe(document | {"seed": seed, "compute": {"device": "cpu", "checkpoint_seconds": 1e9}}, str(RECIPE))
    policy = Policy(str(_output(store, "sft", "model")))
    request = StageRequest(
        stage="align", train="posttrain.training.ppo.stage:ppo", recipe=recipe, policy=policy, policy_digest="given",
        out=out, cache=out / "cache", rows=_output(store, "validate", "preferences.parquet"),
        rewards={"model": _output(store, "reward", "reward")},
    )  # fmt: skip
    began = time.process_time()
    ppo(request, request.section, pl.read_parquet(request.rows))
    return read_curve(out, "held_out_reward", began)


def _output(store: str | None, stage: str, name: str) -> Path:
    """An output of the newest finished result of a stage."""
    found = sorted((Path(store) / stage).glob(f"*/{name}"), key=lambda path: path.stat().st_mtime) if store else []
    if not found:
        raise Refusal(
            where="--store",
            found=f"{store}, without a result of the stage {stage}",
            allowed="the store of a finished run of quickstart-ppo.yaml",
            remedy=f"posttrain run {RECIPE.name} --store FOLDER, then --store FOLDER",
        )
    return found[-1]
