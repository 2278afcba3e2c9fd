"""KTO as a stage: on feedback and on pairs taken apart, with every kind of layout, resumed, and by two processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from transformers import T5Config, T5ForConditionalGeneration

from posttrain.data.feedback import unpaired
from posttrain.models.policy import Policy
from posttrain.runtime.progress import Quiet, reporting
from posttrain.training.kto import kto
from posttrain.training.launch.launcher import launch
from posttrain.training.request import carry_out
from schemas.training import DPO

KTO = {"loss": "kto", "peft": {"method": "lora", "r": 4, "dropout": 0.2}}


class Notes(Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "adapter").glob("*.safetensors")}


@pytest.fixture
def feedback(request_of, tmp_path):
    """The pairs of the tests as single answers, of which three undesirable ones are taken away."""
    table = unpaired(pl.read_parquet(request_of("align", tmp_path / "rows").rows))
    return table.filter(~((pl.col("row") <= 3) & ~pl.col("label")))


def spec(**changes) -> DPO:
    numbers = {"algorithm": "dpo", "loss": "kto", "epochs": 2, "batch_size": 8, "max_length": 64}
    return DPO.model_validate(numbers | {"peft": {"method": "lora", "r": 4}} | changes)


def test_pairs_are_taken_apart_and_each_side_is_an_answer(request_of, points, tmp_path):
    """19 pairs: 38 answers, 5 steps an epoch of 8. At the start every loss is 1/2, and label accuracy by chance."""
    request, heard = request_of("align", tmp_path / "out", KTO), Notes()
    with reporting(heard):
        built = kto(request, spec(), pl.read_parquet(request.rows))
    start, first, *_, last = points(request.out)
    assert built.metrics["examples"] == 38
    assert built.metrics["steps"] == 10
    assert start["validation_loss"] == 0.5
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)
    assert first["divergence"] == pytest.approx(0, abs=1e-4)
    assert {f"{name}_{side}" for name in ("reward", "logprob", "kl") for side in ("desirable", "undesirable")} <= last.keys()
    assert last["reward_desirable"] > last["reward_undesirable"]
    assert built.outputs == {"adapter": "adapter"}
    assert "kto: 19 desirable and 19 undesirable answers" in heard.said
    assert not any("weighed" in said for said in heard.said)


def test_feedback_that_leans_to_one_side_is_told_what_weight_would_balance_it(request_of, feedback, tmp_path):
    """19 desirable, 16 undesirable: 1.19 times as many, within 1 to 4/3. With λ_D = 0.5 it is 0.59: λ_D = 16 / 19 = 0.842."""
    request, heard = request_of("align", tmp_path / "out", KTO), Notes()
    with reporting(heard):
        kto(request, spec(epochs=1), feedback)
        assert not any("weighed" in said for said in heard.said)
        kto(request_of("align", tmp_path / "other", KTO), spec(epochs=1, desirable_weight=0.5), feedback)
    (said,) = (said for said in heard.said if "weighed" in said)
    assert "0.59 times" in said
    assert said.endswith("alignment.desirable_weight=0.842")


def test_a_row_that_does_not_fit_goes_alone_and_labels_stay_with_their_answers(request_of, points, tmp_path):
    """The chosen side of one pair is too long: 37 answers are left, and the run is the one on the pairs without that side."""
    request = request_of("align", tmp_path / "out", KTO)
    table = unpaired(pl.read_parquet(request.rows))
    long = table.with_row_index("at").with_columns(
        completion=pl.when(pl.col("at") == 4)
        .then(pl.lit([{"role": "assistant", "content": "the " * 90}]))
        .otherwise("completion")
    )
    kto(request, spec(epochs=1), long.drop("at"))
    other = request_of("align", tmp_path / "other", KTO)
    built = kto(other, spec(epochs=1), table.with_row_index("at").filter(pl.col("at") != 4).drop("at"))
    assert built.metrics["examples"] == 37
    assert points(request.out) == points(other.out)
    left = pl.read_parquet(request.out / "quarantine.parquet")
    assert left.height == 1


@pytest.mark.parametrize("method", ["full", "prefix_tuning", "ia3", "bottleneck"])
def test_other_methods_learn_too(request_of, feedback, points, tmp_path, method):
    request = request_of("align", tmp_path / method, KTO)
    rate = 3e-3 if method == "full" else 3e-2
    built = kto(request, spec(peft={"method": method}, learning_rate=rate, keep="last", epochs=4), feedback)
    assert points(request.out)[-1]["loss"] < 0.5
    assert built.metrics["examples"] == 35


def test_reference_scores_are_computed_once(request_of, feedback, tmp_path):
    """Another weight changes nothing of the reference: all its scores, those of mismatches too, come from the cache."""
    request, heard = request_of("align", tmp_path / "out", KTO), Notes()
    kto(request, spec(epochs=1), feedback)
    again = request_of("align", tmp_path / "again", KTO).model_copy(update={"cache": request.cache})
    with reporting(heard):
        kto(again, spec(epochs=1, undesirable_weight=1.1, beta=0.3), feedback)
    found = [said for said in heard.said if "from the cache" in said]
    assert len(found) == 3  # answers, mismatches of the steps, mismatches of the held-out rows
    for said in found:
        count = said.split(" of ")[1].split()[0]
        assert said.endswith(f": {count} from the cache")


def test_a_resumed_run_ends_in_the_same_bits(request_of, stop_at, points, tmp_path):
    """With dropout in the adapter, stopped at its fifth step of 12, in steps of 6 and one of 2."""
    section = KTO | {"epochs": 2}
    whole = request_of("align", tmp_path / "whole", section, checkpoint_seconds=1e-9)
    carry_out(whole)
    cut = request_of("align", tmp_path / "cut", section, checkpoint_seconds=1e-9)
    with pytest.raises(KeyboardInterrupt), reporting(stop_at(5)):
        carry_out(cut)
    carry_out(cut)
    assert digests(cut.out) == digests(whole.out)
    assert points(cut.out) == points(whole.out)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_have_the_losses_of_one(strategy, request_of, points, tmp_path):
    section = {"loss": "kto", "epochs": 2}
    alone = request_of("align", tmp_path / "alone", section)
    carry_out(alone)
    together = request_of("align", tmp_path / "together", section, num_processes=2, strategy=strategy)
    launch(together)
    for ours, theirs in zip(points(together.out), points(alone.out), strict=True):
        if ours["step"] == 1:  # the side of the divergence is rounding before the first step
            ours.pop("label_accuracy", None), theirs.pop("label_accuracy", None)
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)


@pytest.fixture
def t5_checkpoint(t5_tokenizer, tmp_path):
    """A folder with a tiny encoder-decoder."""
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": len(t5_tokenizer)}
    model = T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0, dropout_rate=0.1))
    model.save_pretrained(tmp_path / "t5")
    t5_tokenizer.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_encoder_decoders_align_too(t5_checkpoint, request_of, feedback, points, tmp_path):
    request = request_of("align", tmp_path / "out", KTO).model_copy(update={"policy": Policy(str(t5_checkpoint))})
    kto(request, spec(epochs=1, max_length=128), feedback)
    assert points(request.out)[1]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert json.loads((request.out / "rows.json").read_text())["examples"] == 35
