"""Verified rewards on prompts of their own, without pairs and conversations, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from schemas.results import RunReport

RECIPE = Path(__file__).resolve().parents[2] / "deployments" / "recipes" / "verifiable.yaml"
LORA = ["--set", "alignment.peft={method: lora, r: 16, alpha: 32}", "--set", "alignment.learning_rate=5.0e-3"]
CRITIC = ["--set", "alignment.advantage=gae", "--set", "alignment.samples=1"]
SMALL = {
    "name": "small",
    "model": {
        "source": "scratch", "hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1, "vocab_size": 300, "max_length": 128,
    },
    "data": {"corpus": "corpus.jsonl", "prompts": "prompts.jsonl", "holdout": 0.2},
    "pretrain": {"tokens": 2048, "batch_tokens": 512, "context": 64, "learning_rate": 1.0e-3},
    "alignment": {
        "algorithm": "ppo", "advantage": "rloo", "samples": 2, "rollouts": 8, "iterations": 2, "epochs": 1, "minibatches": 1,
        "max_new_tokens": 4, "max_length": 64, "learning_rate": 1.0e-3, "peft": {"method": "full"}, "held_out_prompts": 0,
        "reward": {"source": "function", "name": "own_reward:short", "workers": 1},
    },
    "evaluation": {"prompts": 8, "max_new_tokens": 4, "judge": {"name": "own_reward:short"}},
}  # fmt: skip
MODULE = """
def short(prompts, responses, rows):
    return [row["limit"] - row["response_tokens"] for row in rows]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe with its data and its reward."""
    (tmp_path / "own_reward.py").write_text(MODULE)
    lines = [{"prompt": f"What is {n} and {n}?", "limit": n % 7} for n in range(60)]
    lines += [{"prompt": f"By name {n}?", "limit": 1, "split": "test"} for n in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = [{"text": f"What is {n} and {n}? It is {2 * n}. " * 12} for n in range(80)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in documents))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "filtering": {"preset": "none"}}))
    return tmp_path


def test_ppo_needs_no_pairs_and_no_conversations(folder, warm):
    checked = warm("check", "small.yaml", "--store", folder / "store", "--json", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    assert {"align", "evaluate"} <= json.loads(checked.stdout)["memory"].keys()
    done = warm("run", "small.yaml", "--store", folder / "store", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    stages = {stage.name: stage for stage in report.stages}
    clean = pl.read_parquet(stages["validate"].outputs["prompts"])
    assert stages["align"].metrics["prompts"] == clean.filter(split="train").height
    assert clean.filter(pl.col("prompt").list.first().struct.field("content").str.starts_with("By name"))[
        "split"
    ].unique().to_list() == ["holdout"]
    samples = pl.read_parquet(stages["evaluate"].outputs["samples"])
    held = {
        prompt[0]["content"]: json.loads(extra)["limit"]
        for prompt, extra in clean.filter(split="holdout")["prompt", "extra"].iter_rows()
    }
    assert set(samples["prompt"]) <= held.keys()
    rewards = zip(samples["prompt"], samples["reward_aligned"], strict=True)
    assert all(held[prompt] - 4 <= reward <= held[prompt] - 1 for prompt, reward in rewards)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory) -> Path:
    """All variants start from one SFT policy."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("words", [[], CRITIC, LORA, CRITIC + LORA], ids=["grpo", "ppo", "grpo lora", "ppo lora"])
def test_a_verified_reward_brings_out_what_pretraining_knows(words, warm, shared_store, tmp_path):
    """SFT imitates a person who is right in one of four cases; on held-out problems the aligned policy is right in most."""
    asked = ["--store", shared_store, "--json", "--set", "registry=null", *words]
    done = warm("run", RECIPE, *asked, cwd=tmp_path, seconds=1700)
    assert done.returncode == 0, done.stderr
    report = RunReport.model_validate_json(done.stdout)
    numbers = {stage.name: stage.metrics for stage in report.stages}["evaluate"]
    assert 0.15 < numbers["reward_sft"] < 0.45  # of one recipe .21 on one machine and .36 on another, whose sums round otherwise
    assert numbers["reward_aligned_low"] > 0.7
