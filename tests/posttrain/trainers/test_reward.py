"""The reward stage on tiny models: what it learns, centres, saves and gives back when it is loaded."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch

from posttrain.policy import Policy
from posttrain.progress import Quiet
from posttrain.reward_models import open_reward_model
from posttrain.trainers.reward import reward
from posttrain.trainers.stages import Setting
from schemas.load import validate_recipe
from schemas.reward import RewardModel

CPU = torch.device("cpu")
GOOD, BAD = ("clean", "kind", "lovely"), ("dirty", "rude", "awful")


def pairs(count: int = 48, seed: int = 0) -> pl.DataFrame:
    """Chosen has a good word and rejected a bad one, in sentences of other random words; a quarter is held out."""
    rng = np.random.default_rng(seed)

    def answer(words: tuple[str, ...]) -> list[dict[str, str]]:
        said = [*rng.choice(["the", "hotel", "staff", "was", "a", "review"], rng.integers(2, 8)), rng.choice(words), "."]
        return [{"role": "assistant", "content": " ".join(said)}]

    columns = {
        "prompt": [[{"role": "user", "content": f"Write a review of hotel {i}."}] for i in range(count)],
        "chosen": [answer(GOOD) for _ in range(count)],
        "rejected": [answer(BAD) for _ in range(count)],
        "split": ["holdout" if i % 4 == 3 else "train" for i in range(count)],
        "source": ["p.jsonl"] * count,
        "row": range(1, count + 1),
    }
    return pl.DataFrame(columns)


@pytest.fixture
def setting(checkpoint, tmp_path):
    """Builds a setting whose policy is a tiny Llama, or the given one."""

    def build(name: str = "out", policy: Policy | None = None) -> Setting:
        document = {
            "name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "data": {"preferences": "p"}, "reward": {},
            "compute": {"device": "cpu", "dtype": "float32", "log_every": 1},
        }  # fmt: skip
        (tmp_path / name).mkdir()
        return Setting(validate_recipe(document, "test"), policy or Policy(str(checkpoint)), "d", tmp_path / name, Quiet())

    return build


NUMBERS = {"epochs": 4, "batch_size": 8, "max_length": 96, "learning_rate": 5e-3}
LORA = {"method": "lora", "r": 4}
SCRATCH = {"source": "scratch", "architecture": "bert", "hidden_size": 32, "layers": 2, "heads": 2}


def held_out(folder, table: pl.DataFrame) -> tuple[list, list, list]:
    rows = table.filter(split="holdout")
    return rows["prompt"].to_list(), *([cell[0]["content"] for cell in rows[side]] for side in ("chosen", "rejected"))


@pytest.mark.parametrize(
    "changes", [{"peft": LORA}, {"peft": {"method": "full"}}, {"model": SCRATCH, "peft": {"method": "full"}}],
    ids=["llama lora", "llama full", "bert scratch"],
)  # fmt: skip
def test_the_stage_learns_a_planted_preference_and_comes_back_from_disk(setting, changes):
    where, table = setting(), pairs()
    built = reward(where, RewardModel(**NUMBERS, **changes), table)
    assert built.metrics["held_out_accuracy"] > 0.9
    assert json.loads((where.out / "reward.json").read_text())["pairs"] == 12
    loaded = open_reward_model(where.out / "reward", CPU)
    prompts, chosen, rejected = held_out(where.out, table)
    rewards = [loaded.of_texts(prompts, texts) for texts in (chosen, rejected)]
    assert float((rewards[0] - rewards[1]).mean()) == pytest.approx(built.metrics["held_out_margin"], abs=1e-5)
    assert float(torch.cat(rewards).mean()) == pytest.approx(built.metrics["held_out_reward_mean"], abs=1e-5)
