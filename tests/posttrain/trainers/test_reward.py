"""The reward stage on tiny models: what it learns, centres, saves and gives back when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from posttrain.models import load_model
from posttrain.policy import Policy
from posttrain.progress import Quiet
from posttrain.reward_models import open_reward_model
from posttrain.trainers.reward import reward
from posttrain.trainers.stages import Setting
from schemas.load import validate_recipe
from schemas.recipe import Recipe
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


def recipe(checkpoint: Path) -> Recipe:
    """A recipe on a folder, in which only the compute section matters."""
    document = {
        "name": "tiny", "model": {"source": "local", "path": str(checkpoint)}, "data": {"preferences": "p"}, "reward": {},
        "compute": {"device": "cpu", "dtype": "float32", "log_every": 1},
    }  # fmt: skip
    return validate_recipe(document, "test")


@pytest.fixture
def setting(checkpoint, tmp_path):
    """Builds a setting whose policy is a tiny Llama, or the given one."""

    def build(name: str = "out", policy: Policy | None = None) -> Setting:
        (tmp_path / name).mkdir()
        return Setting(recipe(checkpoint), policy or Policy(str(checkpoint)), "d", tmp_path / name, Quiet())

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


def tokens(count: int = 9, seed: int = 1) -> tuple[list, list]:
    """Prompts, some of which are equal, and responses, some of which end with EOS (token 0)."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, 300, 4 + i % 3).astype(np.int32) for i in range(4)]
    responses = [rng.integers(2, 300, 1 + 3 * i).astype(np.int32) for i in range(count)]
    ended = [np.append(response, np.int32(0)) if i % 2 else response for i, response in enumerate(responses)]
    return [prompts[i % 4] for i in range(count)], ended


@pytest.fixture(scope="module")
def trained_by(checkpoint, tmp_path_factory):
    """Trains with a method once: the policy's folder and the output `reward`."""
    done: dict[str, Path] = {}

    def folder(name: str, peft: dict) -> Path:
        if name not in done:
            out = tmp_path_factory.mktemp("reward")
            where = Setting(recipe(checkpoint), Policy(str(checkpoint)), "d", out, Quiet())
            reward(where, RewardModel(**NUMBERS | {"epochs": 1}, peft=peft), pairs())
            done[name] = out / "reward"
        return done[name]

    return folder


METHODS = {
    "full": {"method": "full"},
    "lora": LORA,
    "lora pissa": {"method": "lora", "r": 4, "init": "pissa"},
    "lora dora": {"method": "lora", "r": 4, "use_dora": True},
    "adalora": {"method": "adalora", "init_r": 4, "target_r": 2},
    "vera": {"method": "vera", "r": 16},
    "oft": {"method": "oft", "block_size": 16},
    "loha": {"method": "loha", "r": 2},
    "lokr": {"method": "lokr", "r": 2},
    "bottleneck": {"method": "bottleneck", "reduction_factor": 4},
    "prompt_tuning": {"method": "prompt_tuning", "virtual_tokens": 5},
    "prefix_tuning": {"method": "prefix_tuning", "virtual_tokens": 5},
    "p_tuning": {"method": "p_tuning", "virtual_tokens": 5, "hidden_size": 16},
    "ia3": {"method": "ia3"},
    "ln_tuning": {"method": "ln_tuning"},
    "bitfit": {"method": "bitfit"},
    "last_layers": {"method": "last_layers", "layers": 1},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_equal_rewards_by_itself_and_on_the_policy_in_memory(trained_by, checkpoint, name):
    """The policy's weights are used where they are, and neither they nor what it computes change."""
    folder = trained_by(name, METHODS[name])
    policy = load_model(Policy(str(checkpoint)), CPU)
    before = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    alone, beside = open_reward_model(folder, CPU), open_reward_model(folder, CPU, base=policy)
    prompts, responses = tokens()
    assert torch.allclose(alone(prompts, responses), beside(prompts, responses), atol=1e-5)
    own = {p.data_ptr() for p in policy.parameters()}
    kept = [p for p in beside.scorer.parameters() if p.data_ptr() not in own]
    trained = sum(p.numel() for p in kept) / sum(p.numel() for p in policy.parameters())
    assert name == "full" or trained < 0.5
    assert all(torch.equal(before[key], tensor) for key, tensor in policy.state_dict().items())
