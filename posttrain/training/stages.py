"""Pretraining, SFT and DPO: each prepares examples and an objective, runs the one loop, and saves what was trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_model, load_tokenizer, parameters_of, scratch_model
from posttrain.checkpoints.quantization import load_quantized
from posttrain.data.choose import held_out_pieces, representative
from posttrain.data.encode import Encoded, encode_conversations, encode_documents
from posttrain.data.left_out import reasons_of, refuse_left_out
from posttrain.data.packing import Example
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.losses.preference import VARIANTS
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.models.policy import Policy
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import save_trained, wrap
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.distributed import is_main
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.progress import Progress, counted
from posttrain.runtime.store import Built
from posttrain.scoring.known_scores import FILE as KNOWN_SCORES
from posttrain.scoring.known_scores import save_known
from posttrain.scoring.reference import Reference, reference_scores
from posttrain.scoring.scorer import Scorer, choose_layout, inner_model
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training import caution
from posttrain.training.batches import Plan, by_rows, by_tokens
from posttrain.training.dropout import set_dropout
from posttrain.training.half_precision import hold_frozen
from posttrain.training.learning_rates import settled
from posttrain.training.loop import Job, train
from posttrain.training.objectives import LanguageModelling, Objective, Preference
from posttrain.training.rows import record_training, record_validation, row_metrics
from posttrain.training.step_zero import step_0_gate
from posttrain.training.validation import kept, refuse_unmeasured
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.recipe import Recipe
from schemas.training import DPO, SFT, Full, Optimization, Peft, Pretrain

VALIDATION_EXAMPLES = 128  # held-out examples behind each point of a validation curve
SECTIONS = {"pretrain": "pretrain", "sft": "sft", "reward": "reward", "align": "alignment"}  # of the recipe, by stage


@dataclass(frozen=True)
class Setting:
    """What every training stage needs beside its own section."""

    recipe: Recipe
    policy: Policy
    policy_digest: str
    out: Path
    progress: Progress

    @property
    def dtype(self) -> torch.dtype:
        """The recipe's arithmetic."""
        return resolve_dtype(self.recipe.compute)

    def scorer(self, model: nn.Module, neftune: float | None = None) -> Scorer:
        """A scorer on the recipe's device and arithmetic."""
        return Scorer(model, resolve_device(self.recipe.compute), self.dtype, neftune=neftune)

    def model(self, dropout: float | None) -> nn.Module:
        """The policy on the recipe's device, quantised where the recipe says so, with this dropout (None: the checkpoint's)."""
        device, kind = resolve_device(self.recipe.compute), self.recipe.quantization
        if kind is None:
            model = load_model(self.policy, device)
        else:
            model = load_quantized(self.policy, device, kind, resolve_dtype(self.recipe.compute))
        set_dropout(model, dropout)
        return model

    def parameters(self) -> int:
        """Of the policy, without loading it."""
        return parameters_of(load_config(self.policy))

    @property
    def encoder_decoder(self) -> bool:
        """Whether the policy has an encoder that reads the prompt."""
        return bool(load_config(self.policy).is_encoder_decoder)


@measured
def pretrain(setting: Setting, spec: Pretrain, documents: pl.DataFrame) -> Built:
    """Next-token prediction on the kept documents, from new weights or from a checkpoint; saves `model/`.

    An encoder-decoder reads the first part of a piece and predicts the rest.
    """
    train_texts = documents.filter(split="train")["text"].to_list()
    source = setting.recipe.model
    device = resolve_device(setting.recipe.compute)
    if isinstance(source, ScratchModel):
        setting.progress.note(f"training a tokenizer of {source.vocab_size:,} tokens on {len(train_texts):,} documents")
        tokenizer = prepare_tokenizer(train_tokenizer(train_texts, source.vocab_size))
        model: Any = scratch_model(source, tokenizer, setting.recipe.seed)
        model.to(device)
    else:
        tokenizer, model = load_tokenizer(setting.policy), load_model(setting.policy, device)
    set_dropout(model, spec.dropout)
    refuse_beyond(longest_sequence(model.config), "pretrain", "context", spec.context)
    encode = functools.partial(
        encode_documents, tokenizer=tokenizer, context=spec.context, encoder_decoder=model.config.is_encoder_decoder
    )
    examples = encode(train_texts)
    rest = documents.filter(split="holdout")
    held_out, chosen = held_out_pieces(rest, VALIDATION_EXAMPLES, encode)
    record_validation(setting.out, setting.progress, chosen, rest, held_out)
    if not examples:
        raise Refusal("data.holdout", "no kept document to train on", "at least one", "lower data.holdout, or give more")
    plan = by_tokens([e.length for e in examples], spec.batch_tokens, spec.tokens, setting.recipe.seed)
    objective = LanguageModelling(examples, z_loss=spec.z_loss)
    return _run(setting, "pretrain", spec, Full(method="full"), model, tokenizer, objective, _validation(held_out), plan)


@measured
def sft(setting: Setting, spec: SFT, conversations: pl.DataFrame) -> Built:
    """Cross-entropy on the last assistant turn; saves `model/` or `adapter/`."""
    spec = settled("sft", spec, spec.peft, setting.parameters)
    tokenizer = load_tokenizer(setting.policy)
    examples = _encode_train(setting, conversations, tokenizer, spec, "data.instructions")
    held_out = _encode_held_out(setting, conversations, tokenizer, spec, "data.instructions")
    model = setting.model(spec.dropout)
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, setting.recipe.seed)
    objective = LanguageModelling(examples, z_loss=spec.z_loss)
    return _run(setting, "sft", spec, spec.peft, model, tokenizer, objective, _validation(held_out), plan, conversations)


@measured
def align(setting: Setting, spec: DPO, pairs: pl.DataFrame, cache: Path) -> Built:
    """A loss of the DPO family, against the policy at step 0 where it has a reference; saves `model/` or `adapter/`.

    The checkpoint's dropout is off: the reference is scored without it, and the policy is compared with it in every step.
    `cache` keeps reference scores across runs.
    """
    spec = settled("dpo", spec, spec.peft, setting.parameters)
    tokenizer = load_tokenizer(setting.policy)
    examples = _encode_train(setting, pairs, tokenizer, spec, "data.preferences")
    held_out = _encode_held_out(setting, pairs, tokenizer, spec, "data.preferences")
    model = wrap(setting.model(dropout=0.0), spec.peft, setting.recipe.seed, "alignment.peft", tokenizer)
    scorer = setting.scorer(model).eval()
    layout = choose_layout(scorer, examples)
    hold_frozen(scorer.model, spec.peft, scorer.dtype)
    compared = VARIANTS[spec.loss].reference
    reference = _reference_scores(setting, scorer, [*examples, *held_out], cache) if compared else None
    objective = _preference(spec, examples, reference)
    validation = _preference(spec, held_out, None if reference is None else reference[len(examples) :]) if held_out else None
    if compared:
        step_0_gate(scorer, objective)
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, setting.recipe.seed)
    built = _fit(setting, "align", spec, spec.peft, scorer, layout, tokenizer, objective, validation, plan, pairs)
    if reference is not None and held_out and _starts_as_exact_policy(setting, spec):
        save_known(setting.out / KNOWN_SCORES, held_out, reference[len(examples) :])
        built.outputs["reference"] = KNOWN_SCORES
    return built


def _starts_as_exact_policy(setting: Setting, spec: DPO) -> bool:
    """Whether the reference is the policy before alignment as evaluation loads it."""
    return METHODS[spec.peft.method].starts_as_base and setting.recipe.quantization is None


def _preference(spec: DPO, examples: Sequence[Example], reference: torch.Tensor | None) -> Preference:
    """The objective of a recipe; `reference` [examples or more, 2]."""
    gamma = spec.simpo_gamma or 0.0
    return Preference(examples, reference, spec.beta, spec.loss, spec.label_smoothing, gamma, spec.sft_weight)


def _encode_train(
    setting: Setting, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, spec: SFT | DPO, field: str
) -> Sequence[Example]:
    """Training examples; the rows that do not fit are written to quarantine.parquet."""
    rows = table.filter(split="train")
    longest, section = longest_sequence(load_config(setting.policy)), "sft" if isinstance(spec, SFT) else "alignment"
    refuse_beyond(longest, section, "max_length", spec.max_length)
    encoded = encode_conversations(rows, tokenizer, spec.max_length, field, spec.overlong, setting.encoder_decoder)
    return kept_examples(setting, rows, encoded, field, section)


def kept_examples(setting: Setting, rows: pl.DataFrame, encoded: Encoded, field: str, section: str) -> Sequence[Example]:
    """The examples of training rows; those left out are written to quarantine.parquet, and all are counted.

    Raises:
        Refusal: when no row is left, or more are left out than `data.checks.max_drop_rate` allows; `section` is the recipe's.
    """
    setting.progress.note(f"{field}: {encoded.summary()}")
    encoded.quarantine(rows).write_parquet(setting.out / "quarantine.parquet")
    record_training(setting.out, field, encoded)
    if not encoded.examples:
        reasons = "; ".join(sorted({reason for _, reason in encoded.left_out})) or "no training rows at all"
        raise Refusal(field, f"no row to train on ({reasons})", "at least one", "raise max_length, or shorten the data")
    refuse_left_out(reasons_of(encoded.left_out), len(rows), field, section, setting.recipe.data.checks)
    return encoded.examples


def _encode_held_out(
    setting: Setting, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, spec: SFT | DPO, field: str
) -> Sequence[Example]:
    held_out = table.filter(split="holdout")
    rows = representative(held_out, VALIDATION_EXAMPLES)
    found = encode_conversations(rows, tokenizer, spec.max_length, field, spec.overlong, setting.encoder_decoder).examples
    record_validation(setting.out, setting.progress, rows, held_out, found)
    return found


def _validation(held_out: Sequence[Example]) -> LanguageModelling | None:
    return LanguageModelling(held_out) if held_out else None


def _reference_scores(setting: Setting, scorer: Scorer, examples: Sequence[Example], cache: Path) -> torch.Tensor:
    """[examples, 2] log-probabilities under the initial policy, from the cache where these weights scored these rows before."""
    weights = [setting.policy_digest, setting.recipe.quantization or "", Reference(scorer.model).digest()]
    on_rows = counted(setting.progress, "reference", len(examples))
    scores, found = reference_scores(cache, weights, scorer, examples, scoring_tokens(scorer.device), on_rows)
    setting.progress.note(f"reference log-probabilities of {len(examples):,} pairs: {found:,} from the cache")
    return scores


def _run(
    setting: Setting, name: str, spec: Optimization, peft: Peft, model: nn.Module, tokenizer: PreTrainedTokenizerBase,
    objective: Objective, validation: Objective | None, plan: Plan, table: pl.DataFrame | None = None,
) -> Built:  # fmt: skip
    """Wrap, check the layout and fit."""
    neftune = spec.neftune_alpha if isinstance(spec, SFT) else None
    scorer = setting.scorer(wrap(model, peft, setting.recipe.seed, f"{name}.peft", tokenizer), neftune).eval()
    layout = choose_layout(scorer, objective.examples)
    hold_frozen(scorer.model, peft, scorer.dtype)
    return _fit(setting, name, spec, peft, scorer, layout, tokenizer, objective, validation, plan, table)


def _fit(
    setting: Setting, name: str, spec: Optimization, peft: Peft, scorer: Scorer, layout: str, tokenizer: PreTrainedTokenizerBase,
    objective: Objective, validation: Objective | None, plan: Plan, table: pl.DataFrame | None = None,
) -> Built:  # fmt: skip
    """Train and save."""
    metrics = fit(setting, name, spec, scorer, layout, objective, validation, plan, table)
    outputs = save_trained(scorer.model, tokenizer, peft, setting.policy, setting.out) if is_main() else {}
    return Built(metrics, outputs)


def fit(
    setting: Setting, name: str, spec: Optimization, scorer: Scorer, layout: str, objective: Objective,
    validation: Objective | None, plan: Plan, table: pl.DataFrame | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train what `scorer` holds; returns the numbers of the run. `table` holds the rows behind the examples: errors name them."""
    setting.progress.note(f"{name}: {layout}")
    refuse_unmeasured(SECTIONS[name], spec, validation)
    spec = spec.model_copy(update={"keep": kept(name, spec, validation)})
    assert spec.learning_rate is not None
    setting.progress.note(f"{name}: peak learning rate {spec.learning_rate:g}")
    if spec.gradient_checkpointing:
        checkpoint_activations(scorer.model, f"{SECTIONS[name]}.gradient_checkpointing")
    job = Job(name, scorer, objective, plan, spec, setting.recipe.compute, setting.out, setting.progress, validation)
    if table is not None:
        job = replace(job, places=functools.partial(_places, table, setting.out / "quarantine.parquet"))
    metrics = train(job)
    if rose := caution.of_stage(name, metrics):
        setting.progress.note(rose)
    (setting.out / "layout.txt").write_text(layout + "\n")
    parameters = list(scorer.model.parameters())
    trained, all_of_them = (sum(p.numel() for p in group) for group in ([p for p in parameters if p.requires_grad], parameters))
    size = {
        "examples": len(objective.examples),
        "parameters": all_of_them,
        "trainable_parameters": trained,
        "learning_rate": spec.learning_rate,
    }
    return {**metrics, **size, **row_metrics(setting.out)}


def checkpoint_activations(model: nn.Module, field: str) -> None:
    """Have each block keep its inputs alone and compute the rest again in the backward pass.

    Raises:
        Refusal: when the model cannot; `field` is the recipe's.
    """
    try:
        inner_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise Refusal(field, f"true, and {error}", "false for this model", f"remove {field}") from error


def _places(table: pl.DataFrame, quarantine: Path, examples: Sequence[int]) -> Sequence[str]:
    """File and row of training examples: they are the training rows of `table` that are not in quarantine, in their order."""
    trained = table.filter(split="train").join(
        pl.read_parquet(quarantine), on=["source", "row"], how="anti", maintain_order="left"
    )
    return [f"{source}:{row}" for source, row in trained[list(examples)].select("source", "row").iter_rows()]
