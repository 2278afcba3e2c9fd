"""Alignment as a stage: with and without a reference; rows that do not fit; the z-loss."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import get_args

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.losses.preference import VARIANTS
from posttrain.models.policy import Policy
from posttrain.runtime.progress import Quiet
from posttrain.runtime.store import CHECKPOINT
from posttrain.training.loop import CURVE
from posttrain.training.stages import Setting, align, sft
from schemas.load import validate_recipe
from schemas.training import DPO, SFT, PreferenceLoss

NUMBERS = {"robust": {"label_smoothing": 0.1}, "simpo": {"simpo_gamma": 0.5}}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def setting(checkpoint, tmp_path):
    document = {
        "name": "tiny",
        "model": {"source": "local", "path": str(checkpoint)},
        "data": {"preferences": "p"},
        "alignment": {"algorithm": "dpo"},
        "compute": {"device": "cpu", "dtype": "float32", "log_every": 1},
    }
    out = tmp_path / "out"
    out.mkdir()
    return Setting(validate_recipe(document, "test"), Policy(str(checkpoint)), "digest", out, Quiet())


@pytest.fixture
def rows():
    """Builds `count` pairs, the last of them held out."""

    def build(count: int = 5, **changes) -> pl.DataFrame:
        columns = {
            "source": ["p.jsonl"] * count,
            "row": list(range(count)),
            "split": ["train"] * (count - 1) + ["holdout"],
            "prompt": [user(f"Rate hotel {i}.") for i in range(count)],
            "chosen": [assistant(f"Clean and kind, {i}.") for i in range(count)],
            "rejected": [assistant(f"Bad{i}") for i in range(count)],
        }
        return pl.DataFrame(columns | changes)

    return build


def curve(setting: Setting) -> list[dict]:
    return [json.loads(line) for line in (setting.out / CURVE).read_text().splitlines()]


@pytest.mark.parametrize("loss", get_args(PreferenceLoss))
def test_align_trains_every_loss_and_asks_for_a_reference_only_where_it_is_read(setting, rows, lora, tmp_path, loss):
    """Four pairs, two steps. The first loss is the one at the start; the divergence is logged against a reference alone."""
    spec = DPO(algorithm="dpo", loss=loss, batch_size=2, sft_weight=0.0, peft=lora(), **NUMBERS.get(loss, {}))
    built = align(setting, spec, rows(), tmp_path / "cache")
    start, first, last = curve(setting)
    compared = VARIANTS[loss].reference
    assert (tmp_path / "cache").exists() == compared
    assert ("kl_chosen" in last) == ("kl_rejected" in last) == compared
    assert {"margin", "accuracy", "reward_chosen", "reward_rejected", "logprob_chosen", "logprob_rejected"} <= last.keys()
    if compared:
        assert first["margin"] == pytest.approx(0, abs=1e-5)
    losses = [point["validation_loss"] for point in (start, first, last)]
    assert built.metrics["validation_loss"] == min(losses)  # the best is kept
    assert built.metrics["validation_loss_start"] == losses[0]
    assert built.outputs == {"adapter": "adapter"} | ({"reference": "reference.safetensors"} if compared else {})


def test_reference_scores_of_another_policy_stop_alignment_before_it_trains(setting, rows, lora, tmp_path):
    """The cache holds scores that are a nat off."""
    spec = DPO(algorithm="dpo", batch_size=2, peft=lora())
    align(setting, spec, rows(), tmp_path / "cache")
    (cached,) = (tmp_path / "cache").iterdir()
    save_file({"scores": load_file(cached)["scores"] - torch.tensor([1.0, 0.0])}, cached)
    (setting.out / CURVE).unlink()
    with pytest.raises(RuntimeError, match=r"margin 0\.1"):
        align(setting, spec, rows(), tmp_path / "cache")
    assert not (setting.out / CURVE).exists()


@pytest.fixture
def dropping(checkpoint, tmp_path):
    """The checkpoint with a config that drops."""
    folder = shutil.copytree(checkpoint, tmp_path / "dropping")
    config = json.loads((folder / "config.json").read_text()) | {"attention_dropout": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    return Policy(str(folder))


def test_dpo_trains_alike_whatever_dropout_the_checkpoint_has(setting, dropping, rows, lora, tmp_path):
    """The first step's loss is ln 2 = 0.6931 and its margin 0, as at the reference; later steps differ in nothing."""
    spec, points = DPO(algorithm="dpo", batch_size=2, peft=lora()), []
    for policy in (setting.policy, dropping):
        align(replace(setting, policy=policy), spec, rows(), tmp_path / "cache")
        points.append([point | {"seconds": 0} for point in curve(setting)])
        shutil.rmtree(setting.out / CHECKPOINT)
        (setting.out / CURVE).unlink()
    assert points[1][1]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert points[1][1]["margin"] == pytest.approx(0, abs=1e-5)
    assert points[0] == points[1]


def test_sft_drops_as_the_checkpoint_or_as_the_recipe_says(setting, dropping, rows):
    """Loss of the one step, which is before any change: with the checkpoint's dropout, with another, and with none."""
    table = rows().rename({"chosen": "completion"}).drop("rejected")
    found = {}
    for dropout in (None, 0.1, 0.0):
        sft(replace(setting, policy=dropping), SFT(batch_size=4, epochs=1, learning_rate=1e-12, dropout=dropout), table)
        found[dropout] = curve(setting)[-1]["loss"]
    sft(setting, SFT(batch_size=4, epochs=1, learning_rate=1e-12), table)
    assert found[0.0] == curve(setting)[-1]["loss"]
    assert len({round(loss, 5) for loss in found.values()}) == 3


def test_a_response_that_does_not_fit_is_quarantined_or_cut_as_the_recipe_says(setting, rows, lora, tmp_path):
    chosen = [assistant("Clean and kind. " * n) for n in (1, 1, 1, 40, 1, 1, 1)]
    numbers = {"algorithm": "dpo", "max_length": 64, "peft": lora()}
    for overlong, examples, quarantined in (("quarantine", 5, [3]), ("truncate", 6, [])):
        built = align(setting, DPO(**numbers, overlong=overlong), rows(7, chosen=chosen), tmp_path / "cache")
        assert built.metrics["examples"] == examples
        assert pl.read_parquet(setting.out / "quarantine.parquet")["row"].to_list() == quarantined


def test_the_z_loss_of_a_recipe_reaches_training_and_not_the_validation_loss(setting, rows):
    """The validation loss stays a plain cross-entropy, so that it is comparable between recipes; nothing is trained here."""
    table = rows().rename({"chosen": "completion"}).drop("rejected")
    numbers = {"batch_size": 4, "epochs": 1, "learning_rate": 1e-12}
    sft(setting, SFT(**numbers), table)
    _, plain = curve(setting)
    sft(setting, SFT(**numbers, z_loss=0.1), table)
    _, weighted = curve(setting)
    assert weighted["z_loss"] > 0.1
    assert weighted["loss"] == pytest.approx(plain["loss"] + weighted["z_loss"], rel=1e-5)
    assert weighted["validation_loss"] == pytest.approx(plain["validation_loss"], rel=1e-6)
