"""The stage pretrain: next-token prediction on the kept documents."""

from __future__ import annotations

import functools
from typing import Any

import polars as pl

from posttrain.checkpoints.load import load_model, load_tokenizer, scratch_model
from posttrain.data.choose import held_out_pieces
from posttrain.data.encode_documents import encode_documents
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.peft.wrap import wrap
from posttrain.runtime.device import resolve_device
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.store import Built
from posttrain.training.batches import by_tokens_with_tail
from posttrain.training.dropout import set_dropout
from posttrain.training.fit import VALIDATION_EXAMPLES, fit_policy, new_job, new_scorer, ready
from posttrain.training.objectives import LanguageModelling
from posttrain.training.request import StageRequest
from posttrain.training.rows import record_validation
from schemas.errors import Refusal
from schemas.model import ScratchModel
from schemas.training import Full, Pretrain


@measured
def pretrain(request: StageRequest, spec: Pretrain, documents: pl.DataFrame) -> Built:
    """Next-token prediction on the kept documents, from new weights or from a checkpoint; saves `model/`.

    An encoder-decoder reads the first part of a piece and predicts the rest.
    """
    seed, everything = request.recipe.seed, Full(method="full")
    main, tail = phases(documents.filter(split="train"))
    train_texts = main + tail
    source, device = request.recipe.model, resolve_device(request.recipe.compute)
    if isinstance(source, ScratchModel):
        request.progress.note(f"training a tokenizer of {source.vocab_size:,} tokens on {len(train_texts):,} documents")
        tokenizer = prepare_tokenizer(train_tokenizer(train_texts, source.vocab_size))
        model: Any = scratch_model(source, tokenizer, seed)
        model.to(device)
    else:
        tokenizer, model = load_tokenizer(request.policy), load_model(request.policy, device)
    set_dropout(model, spec.dropout)
    refuse_beyond(longest_sequence(model.config), "pretrain", "context", spec.context)
    encode = functools.partial(
        encode_documents, tokenizer=tokenizer, context=spec.context, encoder_decoder=model.config.is_encoder_decoder
    )
    examples, annealing = encode(main), encode(tail)
    examples += annealing
    rest = documents.filter(split="holdout")
    held_out, chosen = held_out_pieces(rest, VALIDATION_EXAMPLES, encode)
    record_validation(request.out, request.progress, chosen, rest, held_out)
    if not examples:
        raise Refusal(
            where="data.holdout",
            found="no kept document to train on",
            allowed="at least one",
            remedy="lower data.holdout, or give more",
        )
    scorer = new_scorer(request, wrap(model, everything, seed, "pretrain.peft", tokenizer))
    layout = ready(scorer, everything, examples)
    objective = LanguageModelling(examples, z_loss=spec.z_loss)
    plan = by_tokens_with_tail([e.length for e in examples], len(annealing), spec.batch_tokens, spec.tokens, seed)
    job = new_job(request, spec, scorer, objective, plan, validation=LanguageModelling(held_out) if held_out else None)
    return fit_policy(request, job, layout, everything, tokenizer)


def phases(documents: pl.DataFrame) -> tuple[list[str], list[str]]:
    """The texts that are read first, and those that a mixture of the filter keeps for the end (`filters.mixture.ANNEAL`)."""
    last = (
        documents["phase"].eq_missing("anneal")
        if "phase" in documents.columns
        else pl.repeat(False, documents.height, eager=True)
    )
    return documents.filter(~last)["text"].to_list(), documents.filter(last)["text"].to_list()
