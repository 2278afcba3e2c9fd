"""Held-out feedback in an evaluation."""

from __future__ import annotations

import polars as pl
import pytest

from posttrain.checkpoints.load import scratch_model
from posttrain.data.encode import encode_conversations
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.evaluation.evaluate import HeldOut, evaluate, open_policy
from posttrain.models.policy import Policy
from posttrain.runtime.progress import Quiet
from posttrain.scoring.reference import score_branches
from schemas.load import validate_recipe
from schemas.model import ScratchModel

SIZES = {"hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1}


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture
def policies(tmp_path):
    """Three tiny policies that differ in their weights."""
    tokenizer = prepare_tokenizer(train_tokenizer([f"the film {n} was good, or bad and long" for n in range(20)], 300))
    for seed, name in enumerate(("base", "sft", "aligned")):
        scratch_model(ScratchModel(source="scratch", **SIZES), tokenizer, seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return {name: Policy(str(tmp_path / name)) for name in ("base", "sft", "aligned")}


def test_how_well_rewards_tell_labels_apart_is_measured(policies, tmp_path):
    """By the log-ratios to the SFT policy, scored again here; there are no pairs, hence no accuracy."""
    rows = pl.DataFrame(
        {"prompt": [said("user", f"film {n}?") for n in range(10)], "label": [n % 3 == 0 for n in range(10)],
         "completion": [said("assistant", "good" if n % 2 else "bad and long") for n in range(10)]}
    )  # fmt: skip
    recipe = validate_recipe(
        {"name": "tiny", "model": {"source": "scratch", **SIZES}, "data": {"corpus": "c", "instructions": "i", "feedback": "f"},
         "pretrain": {"tokens": 10}, "sft": {}, "alignment": {"algorithm": "dpo", "loss": "kto"},
         "evaluation": {"prompts": 8, "max_new_tokens": 6}}, "test",
    )  # fmt: skip
    numbers = evaluate(recipe, policies, HeldOut(None, None, None, rows), tmp_path / "sft", Quiet()).metrics
    ratios = 0.0
    for sign, name in ((1, "aligned"), (-1, "sft")):
        scorer, tokenizer = open_policy(recipe, policies[name])
        examples = encode_conversations(rows, tokenizer, 64, "data").examples
        ratios = ratios + sign * score_branches(scorer, examples, 10**6)[:, 0]
    good, bad = (
        [float(ratio) for ratio, label in zip(ratios, rows["label"], strict=True) if label is side] for side in (True, False)
    )
    wins = [(a > b) + (a == b) / 2 for a in good for b in bad]
    assert numbers["feedback_auc"] == pytest.approx(sum(wins) / len(wins))
    assert numbers["feedback_auc_low"] <= numbers["feedback_auc"] <= numbers["feedback_auc_high"]
    assert "preference_accuracy" not in numbers
    assert numbers["held_out_prompts"] == 8
