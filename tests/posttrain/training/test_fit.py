"""What a stage does around the loop: names of rows, recomputed activations, refusals before training."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.models.policy import Policy
from posttrain.runtime.partial import CHECKPOINT
from posttrain.scoring.scorer import Scorer
from posttrain.training.batches import by_rows
from posttrain.training.fit import checkpoint_activations
from posttrain.training.loop import train
from posttrain.training.nonfinite import TrainingDiverged
from posttrain.training.request import StageRequest, carry_out
from schemas.errors import Refusal


def with_rows(request: StageRequest, change) -> StageRequest:
    """The request with another table."""
    path = request.out / "rows.parquet"
    change(pl.read_parquet(request.rows)).write_parquet(path)
    return request.model_copy(update={"rows": path})


def test_a_request_survives_its_journey_as_a_document(request_of, tmp_path):
    sent = request_of("align", tmp_path / "out", num_processes=2)
    assert StageRequest.model_validate_json(sent.model_dump_json()) == sent


def test_rows_are_named_by_file_and_row_when_training_diverges(request_of, checkpoint, tmp_path):
    """The weights are finite, and every score overflows.

    The first row is too long and left out, so that example i is row i + 2 of the file.
    """
    broken = tmp_path / "model"
    broken.mkdir()
    for path in checkpoint.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    save_file({name: tensor * 1e30 for name, tensor in weights.items()}, broken / "model.safetensors", {"format": "pt"})

    def first_too_long(table: pl.DataFrame) -> pl.DataFrame:
        long = [{"role": "assistant", "content": "the staff was kind " * 40}]
        return table.with_columns(pl.Series("completion", [long, *table["completion"].to_list()[1:]]))

    told = with_rows(request_of("sft", tmp_path / "out", {"batch_size": 2}), first_too_long)
    told = told.model_copy(update={"policy": Policy(str(broken))})
    third = ", ".join(f"pairs.jsonl:{row + 2}" for row in by_rows(18, 2, 1, seed=0)[2])
    with pytest.raises(TrainingDiverged, match=f"at step 3 on training rows {third};"):
        carry_out(told)
    assert pl.read_parquet(told.out / "quarantine.parquet")["row"].to_list() == [1]


def test_recomputed_activations_give_the_same_losses_from_twice_the_forward_passes(job, tiny_llama, points):
    def run(name: str, recompute: bool) -> tuple[list[dict], int]:
        model = tiny_llama(attention_dropout=0.2)
        if recompute:
            checkpoint_activations(model, "sft.gradient_checkpointing")
        made, calls = job(name, scorer=Scorer(model, torch.device("cpu"))), []
        model.model.layers[0].self_attn.register_forward_hook(lambda *call: calls.append(call))
        train(made)
        return points(made.out), len(calls)

    (kept, once), (computed_again, twice) = run("kept", False), run("again", True)
    assert computed_again == kept
    assert twice == 2 * once


def test_the_recipe_asks_for_recomputed_activations(request_of, points, tmp_path):
    """Under LoRA too, where no input of a block needs a gradient."""
    spec = {"epochs": 1, "peft": {"method": "lora", "r": 4}}
    for name, recompute in (("kept", False), ("again", True)):
        carry_out(request_of("sft", tmp_path / name, spec | {"gradient_checkpointing": recompute}))
    assert points(tmp_path / "again") == points(tmp_path / "kept")


class Rigid(torch.nn.Module):
    """A model that cannot recompute, and says so as transformers' models do."""

    def gradient_checkpointing_enable(self, options: dict) -> None:
        raise ValueError("Rigid does not support gradient checkpointing.")


def test_a_model_that_cannot_recompute_is_refused():
    with pytest.raises(Refusal, match="Rigid does not support") as refused:
        checkpoint_activations(Rigid(), "sft.gradient_checkpointing")
    assert refused.value.where == "sft.gradient_checkpointing"


@pytest.mark.parametrize(
    ("stage", "section", "where"),
    [
        ("sft", {"keep": "best"}, "sft.keep"),
        ("align", {"early_stop": {"patience": 2}}, "alignment.early_stop"),
    ],
)
def test_a_choice_by_the_validation_loss_needs_held_out_rows(stage, section, where, request_of, tmp_path):
    told = with_rows(request_of(stage, tmp_path / "out", section), lambda table: table.filter(split="train"))
    with pytest.raises(Refusal, match="no held-out rows") as refused:
        carry_out(told)
    assert refused.value.where == where
    assert not (told.out / CHECKPOINT).exists()
