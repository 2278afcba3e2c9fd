"""The reward stage on tiny models: what it learns, centres, measures and writes; that it resumes exactly."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM

from posttrain.rewards.model import open_reward_model
from posttrain.rewards.scorer import BranchRewards
from posttrain.runtime.partial import CHECKPOINT
from posttrain.training.loop import CURVE
from posttrain.training.objectives import BradleyTerry
from posttrain.training.reward import by_subset, margins
from schemas.errors import Refusal
from schemas.reward import RewardTraining

CPU = torch.device("cpu")
FULL = {"method": "full"}
SCRATCH = {"source": "scratch", "architecture": "bert", "hidden_size": 32, "layers": 2, "heads": 2}


def sides(table: pl.DataFrame, split: str) -> tuple[list, list[str], list[str]]:
    """Prompts, chosen and rejected texts of a split."""
    rows = table.filter(split=split)
    return rows["prompt"].to_list(), *([cell[0]["content"] for cell in rows[side]] for side in ("chosen", "rejected"))


def rewards_of(model, table: pl.DataFrame, split: str) -> torch.Tensor:
    prompts, chosen, rejected = sides(table, split)
    return torch.stack([model.of_texts(prompts, chosen), model.of_texts(prompts, rejected)], 1)


@pytest.mark.parametrize(
    "section", [{}, {"peft": FULL}, {"model": SCRATCH, "peft": FULL}], ids=["llama lora", "llama full", "bert from scratch"]
)
def test_it_learns_a_planted_preference_and_comes_back_from_disk_as_measured(reward_stage, reward_pairs, tmp_path, section):
    built = reward_stage(tmp_path / "out", **section)
    assert built.metrics["held_out_accuracy"] > 0.9
    assert built.metrics["accuracy"] > 0.9
    assert built.outputs["reward"] == "reward"
    loaded = open_reward_model(tmp_path / "out" / "reward", CPU)
    found = rewards_of(loaded, reward_pairs(), "holdout")
    margins = found[:, 0] - found[:, 1]
    assert float(margins.mean()) == pytest.approx(built.metrics["held_out_margin"], abs=1e-5)
    assert float(found.mean()) == pytest.approx(built.metrics["held_out_reward_mean"], abs=1e-5)
    assert float(found.std(correction=0)) == pytest.approx(built.metrics["held_out_reward_std"], abs=1e-5)
    document = json.loads((tmp_path / "out" / "reward.json").read_text())
    assert document["pairs"] == 12
    assert sum(point["pairs"] for point in document["reliability"]) == 12


def test_labels_that_mean_nothing_are_not_found_on_held_out_pairs(reward_stage, reward_pairs, tmp_path):
    """Sides swapped in every second pair: the words say nothing, and held-out accuracy is about a coin's (here 6 of 12 ± 3)."""
    table = reward_pairs()
    swap = pl.Series([row % 2 == 0 for row in table["row"]])
    mixed = table.with_columns(
        chosen=pl.when(swap).then("rejected").otherwise("chosen"), rejected=pl.when(swap).then("chosen").otherwise("rejected")
    )
    built = reward_stage(tmp_path / "out", pairs=mixed)
    assert 0.25 <= built.metrics["held_out_accuracy"] <= 0.75


def test_a_reward_model_trains_alike_whatever_dropout_its_checkpoint_has(reward_stage, checkpoint, tmp_path):
    dropping = shutil.copytree(checkpoint, tmp_path / "dropping")
    config = json.loads((dropping / "config.json").read_text()) | {"attention_dropout": 0.5}
    (dropping / "config.json").write_text(json.dumps(config))
    found = [reward_stage(tmp_path / policy.name, policy, epochs=1).metrics for policy in (checkpoint, dropping)]
    times = ("seconds", "per_second", "memory")
    stable = [{name: value for name, value in each.items() if not any(part in name for part in times)} for each in found]
    assert stable[0] == stable[1]


def test_rewards_are_centred_on_the_training_responses(reward_stage, reward_pairs, tmp_path):
    centred, raw = (reward_stage(tmp_path / str(centre), centre=centre) for centre in (True, False))
    assert raw.metrics["reward_mean"] == 0
    assert abs(centred.metrics["reward_mean"]) > 1e-3
    models = [open_reward_model(tmp_path / name / "reward", CPU) for name in ("True", "False")]
    found = [rewards_of(model, reward_pairs(), "train") for model in models]
    assert float(found[0].mean()) == pytest.approx(0, abs=1e-5)
    assert torch.allclose(found[1] - centred.metrics["reward_mean"], found[0], atol=1e-5)


def test_transformers_alone_gives_the_same_rewards(reward_stage, reward_pairs, tmp_path):
    """A batch padded on the right, as a stranger would write it; the mean is in the config."""
    reward_stage(tmp_path / "out")
    folder = tmp_path / "out" / "reward"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts, chosen, _ = sides(reward_pairs(), "holdout")
    said = [[*p, {"role": "assistant", "content": text}] for p, text in zip(prompts, chosen, strict=True)]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in said]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0]
    ours = open_reward_model(folder, CPU).of_texts(prompts, chosen)
    assert torch.allclose(logits - model.config.reward_mean, ours, atol=1e-5)
    assert len(ours.unique()) > 6


def test_transformers_alone_reads_an_encoder_as_two_texts(reward_stage, reward_pairs, tmp_path):
    reward_stage(tmp_path / "out", model=SCRATCH, peft=FULL)
    folder = tmp_path / "out" / "reward"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts, chosen, _ = sides(reward_pairs(), "holdout")
    inputs = tokenizer([p[0]["content"] for p in prompts], chosen, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[:, 0]
    ours = open_reward_model(folder, CPU).of_texts(prompts, chosen)
    assert torch.allclose(logits - model.config.reward_mean, ours, atol=1e-5)


@pytest.fixture
def masked_model(tmp_path, tokenizer):
    """A folder with a BERT that predicts masked words, which has no pooler, and a tokenizer that joins texts."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=48, max_position_embeddings=128, pad_token_id=1)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    eos = tokenizer.eos_token
    join = TemplateProcessing(single=f"{eos} $A", pair=f"{eos} $A {eos} $B:1 {eos}:1", special_tokens=[(eos, 0)])
    tokenizer.backend_tokenizer.post_processor = join
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_an_encoder_of_a_checkpoint_without_a_pooler_gets_one_that_is_trained(
    reward_stage, reward_pairs, masked_model, tmp_path, method
):
    """Its new pooler and classifier are the score head, saved apart; with a method that cannot be merged there is a base."""
    section = {"model": {"source": "local", "path": str(masked_model)}, "peft": {"method": method}}
    built = reward_stage(tmp_path / "out", masked_model, **section)
    folder = tmp_path / "out" / "reward"
    names = {f"{module}.{leaf}" for module in ("bert.pooler.dense", "classifier") for leaf in ("weight", "bias")}
    assert load_file(folder / "score.safetensors").keys() == names
    assert (folder / "base").is_dir() == (method == "bottleneck") != (folder / "model.safetensors").is_file()
    found = rewards_of(open_reward_model(folder, CPU), reward_pairs(), "holdout")
    assert float(found.mean()) == pytest.approx(built.metrics["held_out_reward_mean"], abs=1e-5)


def test_rows_longer_than_the_encoder_can_read_are_refused(reward_stage, masked_model, tmp_path):
    section = {"model": {"source": "local", "path": str(masked_model)}, "max_length": 129}
    with pytest.raises(Refusal, match=r"reward.max_length: found 129 with a model of 128 positions"):
        reward_stage(tmp_path / "out", masked_model, **section)


@pytest.fixture
def padding_with_eos(checkpoint, tokenizer, tmp_path):
    """The policy's folder with a tokenizer whose padding token is EOS."""
    folder = shutil.copytree(checkpoint, tmp_path / "policy")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


def test_where_eos_pads_too_the_reward_is_read_before_it(reward_stage, reward_pairs, padding_with_eos, tmp_path):
    """As transformers will read the saved model, which takes the last token that is not padding."""
    reward_stage(tmp_path / "out", padding_with_eos)
    folder = tmp_path / "out" / "reward"
    model, saved = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts, chosen, _ = sides(reward_pairs(), "holdout")
    text = saved.apply_chat_template([*prompts[0], {"role": "assistant", "content": chosen[0]}], tokenize=False)
    ids = saved(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert ids[0, -1] == model.config.pad_token_id == saved.eos_token_id
    with torch.no_grad():
        logit = model(input_ids=ids).logits.item()
    ours = open_reward_model(folder, CPU).of_texts(prompts[:1], chosen[:1])
    assert logit - model.config.reward_mean == pytest.approx(ours.item(), abs=1e-5)


def test_where_eos_pads_too_an_encoder_still_reads_its_last_separator(reward_stage, reward_pairs, padding_with_eos, tmp_path):
    built = reward_stage(tmp_path / "out", padding_with_eos, model=SCRATCH, peft=FULL)
    found = rewards_of(open_reward_model(tmp_path / "out" / "reward", CPU), reward_pairs(), "holdout")
    assert float(found.mean()) == pytest.approx(built.metrics["held_out_reward_mean"], abs=1e-5)


@pytest.mark.parametrize("section", [{}, {"model": SCRATCH, "peft": FULL}], ids=["llama lora", "bert"])
def test_a_stopped_stage_ends_in_the_same_bytes(reward_stage, stop_at, tmp_path, section):
    """Stopped at step 9 of 20 with a checkpoint at each step."""
    with pytest.raises(KeyboardInterrupt):
        reward_stage(tmp_path / "stopped", progress=stop_at(9), seconds=1e-9, **section)
    assert list((tmp_path / "stopped" / CHECKPOINT).iterdir())
    reward_stage(tmp_path / "stopped", **section)
    reward_stage(tmp_path / "whole", **section)
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped" / CURVE).read_text().splitlines()]
    assert steps == list(range(21))
    for name in ("model.safetensors", "score.safetensors"):
        assert (tmp_path / "stopped" / "reward" / name).read_bytes() == (tmp_path / "whole" / "reward" / name).read_bytes()


def test_margins_grow_with_the_scores_of_a_pair():
    """0.5 for each pair and 0.1 for each point: 0.5 + 0.1 (8 - 3) = 1; a pair without scores has 0.5. Of a reward of 2 against 1
    the losses are -log sigmoid(1 - 1) = log 2 and -log sigmoid(1 - 0.5) = log(1 + exp(-0.5))."""
    rows = pl.DataFrame({"score_chosen": [8.0, None], "score_rejected": [3.0, None]})
    found = margins(RewardTraining(margin=0.5, margin_per_score=0.1), rows)
    assert found.tolist() == pytest.approx([1.0, 0.5])
    objective = BradleyTerry([], found)
    both, second = (float(objective.loss(BranchRewards(torch.tensor([2.0, 1.0] * len(at))), at)[0]) for at in ([0, 1], [1]))
    assert second == pytest.approx(math.log1p(math.exp(-0.5)))
    assert both == pytest.approx(math.log(2) + second)


def test_held_out_pairs_are_counted_by_subset():
    """Margins 1; -1 and a tie, which counts half; 2 of a row without a subset, which is under its source."""
    extra = [json.dumps({"subset": name}) if name else None for name in ("easy", "hard", "hard", None)]
    rows = pl.DataFrame({"source": ["bench.jsonl"] * 3 + ["own.jsonl"], "row": range(4), "extra": extra})
    found = by_subset(np.array([1.0, -1.0, 0.0, 2.0]), rows, [0, 1, 2, 3])
    assert [(each["subset"], each["pairs"], each["accuracy"]) for each in found] == [
        ("easy", 1, 1.0), ("hard", 2, 0.25), ("own.jsonl", 1, 1.0),
    ]  # fmt: skip
    assert all(each["interval"][0] <= each["accuracy"] <= each["interval"][1] for each in found)
    assert by_subset(np.array([1.0, -1.0]), rows[:1].vstack(rows[:1]), [0, 1]) == []
