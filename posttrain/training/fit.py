"""What every training stage does around the one loop: load, encode, choose a layout, train, save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
from torch import nn
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_model, parameters_of
from posttrain.checkpoints.quantization import load_quantized
from posttrain.data.choose import representative
from posttrain.data.encode import Encoded, encode_conversations
from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.data.packing import Example
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.models.parameters import parameter_count, trainable_count
from posttrain.peft.wrap import save_trained
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.distributed import is_main
from posttrain.runtime.matmul_rate import matmul_gflops
from posttrain.runtime.store import Built
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.training import caution
from posttrain.training.batches import Plan
from posttrain.training.dropout import set_dropout
from posttrain.training.half_precision import hold_frozen
from posttrain.training.loop import Job, train
from posttrain.training.objectives import Objective
from posttrain.training.request import StageRequest
from posttrain.training.rows import record_training, record_validation, row_metrics
from posttrain.training.validation import kept, refuse_unmeasured
from schemas.errors import Refusal
from schemas.training import DPO, SFT, Optimization, Peft

VALIDATION_EXAMPLES = 128  # held-out examples behind each point of a validation curve


def load_start(request: StageRequest, dropout: float | None) -> nn.Module:
    """The policy that a stage starts from on the recipe's device, quantised where the recipe says so.

    Its dropout is set to this; None keeps the checkpoint's.
    """
    device, kind = resolve_device(request.recipe.compute), request.recipe.quantization
    if kind is None:
        model = load_model(request.policy, device)
    else:
        model = load_quantized(request.policy, device, kind, resolve_dtype(request.recipe.compute))
    set_dropout(model, dropout)
    return model


def start_parameters(request: StageRequest) -> int:
    """Of the policy that a stage starts from, without loading it."""
    return parameters_of(load_config(request.policy))


def encode_train(
    request: StageRequest, spec: SFT | DPO, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase
) -> Sequence[Example]:
    """Training examples; the rows that do not fit are written to quarantine.parquet.

    Raises:
        Refusal: when no row is left, or `max_length` is more than the model can read.
    """
    return encode_rows(request, spec, table.filter(split="train"), tokenizer)[0]


def encode_rows(
    request: StageRequest, spec: SFT | DPO, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase
) -> tuple[Sequence[Example], pl.DataFrame]:
    """The examples of these training rows as `encode_train` makes them, and the rows that they are of."""
    refuse_beyond(longest_sequence(load_config(request.policy)), request.field, "max_length", spec.max_length)
    encoded = _encoded(request, spec, rows, tokenizer)
    return kept_examples(request, rows, encoded), encoded.kept(rows)


def encode_held_out(
    request: StageRequest, spec: SFT | DPO, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase
) -> Sequence[Example]:
    """The examples behind the validation curve: of every source its share, recorded by row."""
    return held_out_rows(request, spec, table, tokenizer)[0]


def held_out_rows(
    request: StageRequest, spec: SFT | DPO, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase
) -> tuple[Sequence[Example], pl.DataFrame]:
    """The same with the rows that they are of."""
    held_out = table.filter(split="holdout")
    rows = representative(held_out, VALIDATION_EXAMPLES)
    encoded = _encoded(request, spec, rows, tokenizer)
    record_validation(request.out, request.progress, rows, held_out, encoded.examples)
    return encoded.examples, encoded.kept(rows)


def _encoded(request: StageRequest, spec: SFT | DPO, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    two_parts = bool(load_config(request.policy).is_encoder_decoder)
    turns = spec.train_on if isinstance(spec, SFT) else "last"
    return encode_conversations(rows, tokenizer, spec.max_length, _data_field(request), spec.overlong, two_parts, turns)


def _data_field(request: StageRequest) -> str:
    return f"data.{request.recipe.dataset(request.stage)}"


def kept_examples(request: StageRequest, rows: pl.DataFrame, encoded: Encoded) -> Sequence[Example]:
    """The examples of training rows; those left out are written to quarantine.parquet, and all are counted.

    Raises:
        Refusal: when no row is left, or more are left out than `data.checks.max_drop_rate` allows.
    """
    field = _data_field(request)
    request.progress.note(f"{field}: {encoded.summary()}")
    encoded.quarantine(rows).write_parquet(request.out / "quarantine.parquet")
    record_training(request.out, field, encoded)
    if not encoded.examples:
        reasons = "; ".join(sorted({reason for _, reason in encoded.left_out})) or "no training rows at all"
        raise Refusal(
            where=field,
            found=f"no row to train on ({reasons})",
            allowed="at least one",
            remedy="raise max_length, or shorten the data",
        )
    refuse_left_out(reasons_of(encoded.left_out), len(rows), field, request.field, request.recipe.data.checks)
    return encoded.examples


def new_scorer(request: StageRequest, model: nn.Module, neftune: float | None = None) -> Scorer:
    """A scorer on the recipe's device and arithmetic."""
    compute = request.recipe.compute
    return Scorer(model, resolve_device(compute), resolve_dtype(compute), neftune=neftune).eval()


def ready(scorer: Scorer, peft: Peft, examples: Sequence[Example]) -> str:
    """Choose the layout and hold frozen weights as the arithmetic wants them; returns a sentence about the layout."""
    layout = choose_layout(scorer, examples)
    layout.apply(scorer)
    hold_frozen(scorer.model, peft, scorer.dtype)
    return str(layout)


def new_job(request: StageRequest, spec: Optimization, scorer: Scorer, objective: Objective, plan: Plan, **more: Any) -> Job:
    """The loop's job for a stage; `more` are other fields of `Job`."""
    return Job(request.stage, scorer, objective, plan, spec, request.recipe.compute, request.out, request.progress, **more)


def fit(request: StageRequest, job: Job, layout: str) -> dict[str, float]:
    """Train what the job's scorer holds, and return the numbers of the run; `layout` says in a sentence how it scores.

    Raises:
        Refusal: when the section asks for a choice by the validation loss, and there are no held-out rows.
    """
    stage, note = request.stage, request.progress.note
    note(f"{stage}: {layout}")
    refuse_unmeasured(request.field, job.spec, job.validation)
    job = replace(job, spec=job.spec.model_copy(update={"keep": kept(stage, job.spec, job.validation)}))
    rate = job.spec.learning_rate
    assert rate is not None  # `settled`
    note(f"{stage}: peak learning rate {rate:g}")
    if job.spec.gradient_checkpointing:
        checkpoint_activations(job.scorer.model, f"{request.field}.gradient_checkpointing")
    metrics = train(job)
    for sentence in caution.of_stage(stage, metrics):
        note(sentence)
    (request.out / "layout.txt").write_text(layout + "\n")
    size = {
        "examples": len(job.objective.examples),
        "parameters": parameter_count(job.scorer.model),
        "trainable_parameters": trainable_count(job.scorer.model),
        "learning_rate": rate,
    }
    return {**metrics, **size, **_rate_of_products(job), **row_metrics(request.out)}


def _rate_of_products(job: Job) -> dict[str, float]:
    """What the chip could do, for the report's share of it; of several processes on one chip no one can say."""
    if job.compute.num_processes > 1:
        return {}
    return {"matmul_gflops": matmul_gflops(job.scorer.device, job.scorer.dtype)}


def fit_policy(request: StageRequest, job: Job, layout: str, peft: Peft, tokenizer: PreTrainedTokenizerBase) -> Built:
    """Train a policy and save it: `model/` or `adapter/`."""
    metrics = fit(request, job, layout)
    outputs = save_trained(job.scorer.model, tokenizer, peft, request.policy, request.out) if is_main() else {}
    return Built(metrics, outputs)


def checkpoint_activations(model: nn.Module, field: str) -> None:
    """Enable activation checkpointing: each block keeps only its inputs and computes the rest again in the backward pass.

    Raises:
        Refusal: when the model cannot; `field` is the recipe's.
    """
    try:
        inner_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise Refusal(
            where=field, found=f"true, and {error}", allowed="false for this model", remedy=f"remove {field}"
        ) from error


def places(request: StageRequest, table: pl.DataFrame, examples: Sequence[int]) -> Sequence[str]:
    """File and row of training examples: they are the training rows of `table` that are not in quarantine, in their order."""
    left_out = pl.read_parquet(request.out / "quarantine.parquet", glob=False)
    trained = table.filter(split="train").join(left_out, on=["source", "row"], how="anti", maintain_order="left")
    return [f"{source}:{row}" for source, row in trained[list(examples)].select("source", "row").iter_rows()]
