"""Alignment as a stage: the gate before the first step, with and without a reference; rows that do not fit; the z-loss."""

from __future__ import annotations

import json
from typing import get_args

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.losses.preference import VARIANTS
from posttrain.policy import Policy
from posttrain.progress import Quiet
from posttrain.reference import score_branches
from posttrain.scoring import Scorer
from posttrain.trainers.loop import CURVE
from posttrain.trainers.objectives import Preference
from posttrain.trainers.stages import Setting, align, sft, step_0_gate
from schemas.load import validate_recipe
from schemas.training import DPO, SFT, PreferenceLoss

SIZES = [(5, 4, 7), (9, 3, 2), (2, 6, 6)]  # of prompt, chosen, rejected
NUMBERS = {"robust": {"label_smoothing": 0.1}, "simpo": {"simpo_gamma": 0.5}}


@pytest.fixture
def scorer(tiny_llama):
    return Scorer(tiny_llama(initializer_range=0.3), torch.device("cpu")).eval()


@pytest.fixture
def objective(scorer, random_examples):
    """Builds an objective on three pairs whose reference is the policy itself, moved by `shift` nats per token."""

    def build(kind: str, beta: float = 0.1, shift: tuple[float, float] = (0.0, 0.0), **changes) -> Preference:
        pairs = random_examples(SIZES)
        lengths = torch.tensor([[len(branch) for branch in pair.branches] for pair in pairs])
        reference = score_branches(scorer, pairs, 10**6) + torch.tensor(shift) * lengths
        return Preference(pairs, reference, beta, kind, **changes)

    return build


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("kind", [name for name, variant in VARIANTS.items() if variant.reference])
def test_the_gate_lets_an_equal_reference_pass_under_every_loss(scorer, objective, kind, beta):
    """With an SFT term, too, whose value is not known beforehand."""
    step_0_gate(scorer, objective(kind, beta, smoothing=0.1))
    step_0_gate(scorer, objective(kind, beta, sft_weight=1.0))


@pytest.mark.parametrize("kind", [name for name, variant in VARIANTS.items() if variant.reference])
@pytest.mark.parametrize("shift", [(-0.01, 0.0), (0.0, 0.01), (0.01, 0.01)])
def test_the_gate_stops_at_a_reference_that_is_off_by_a_hundredth_of_a_nat_per_token(scorer, objective, kind, shift):
    """Chosen has 4, 3 and 6 tokens: 0.043 nats in the mean, times β = 0.1: a reward of 0.004 and not 0; per token 0.001."""
    with pytest.raises(RuntimeError, match=r"step-0 gate: .* policy and reference differ"):
        step_0_gate(scorer, objective(kind, shift=shift))


def test_the_gate_sees_a_margin_that_the_loss_does_not_show(scorer, objective):
    """β = 0.1: IPO costs (0 - 5)² = 25 at the start, and as much, (10 - 5)², at 10 nats per token: a margin of 1."""
    with pytest.raises(RuntimeError, match=r"loss 2[45]\.\d+ \(expected 25\.0+\), margin 1\.0+ \(expected 0\.0+\)"):
        step_0_gate(scorer, objective("ipo", shift=(-10.0, 0.0)))


def test_a_score_that_is_not_a_number_does_not_pass_the_gate(scorer, objective):
    with pytest.raises(RuntimeError, match="margin nan"):
        step_0_gate(scorer, objective("sigmoid", shift=(float("nan"), 0.0)))


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
    assert built.outputs == {"adapter": "adapter"}


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


def test_a_response_that_does_not_fit_is_quarantined_or_cut_as_the_recipe_says(setting, rows, lora, tmp_path):
    chosen = [assistant("Clean and kind. " * n) for n in (1, 1, 1, 40, 1)]
    numbers = {"algorithm": "dpo", "max_length": 64, "peft": lora()}
    for overlong, examples, quarantined in (("quarantine", 3, [3]), ("truncate", 4, [])):
        built = align(setting, DPO(**numbers, overlong=overlong), rows(chosen=chosen), tmp_path / "cache")
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
