"""The stage sft: cross-entropy on the answers of each conversation."""

from __future__ import annotations

import functools

import polars as pl

from posttrain.checkpoints.load import load_tokenizer
from posttrain.peft.wrap import wrap
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.store import Built
from posttrain.training.batches import by_rows
from posttrain.training.fit import (
    encode_held_out,
    encode_train,
    fit_policy,
    load_start,
    new_job,
    new_scorer,
    places,
    ready,
    start_parameters,
)
from posttrain.training.learning_rates import settled
from posttrain.training.objectives import LanguageModelling
from posttrain.training.request import StageRequest
from schemas.training import SFT


@measured
def sft(request: StageRequest, spec: SFT, conversations: pl.DataFrame) -> Built:
    """Cross-entropy on all answers, or on the last one; saves `model/` or `adapter/`."""
    spec = settled("sft", spec, spec.peft, lambda: start_parameters(request))
    tokenizer = load_tokenizer(request.policy)
    examples = encode_train(request, spec, conversations, tokenizer)
    held_out = encode_held_out(request, spec, conversations, tokenizer)
    start, new = load_start(request, spec.dropout), request.policy.new_tokens
    model = wrap(start, spec.peft, request.recipe.seed, "sft.peft", tokenizer, new)
    scorer = new_scorer(request, model, spec.neftune_alpha)
    layout = ready(scorer, spec.peft, examples)
    objective = LanguageModelling(examples, z_loss=spec.z_loss)
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, request.recipe.seed)
    validation = LanguageModelling(held_out) if held_out else None
    named = functools.partial(places, request, conversations)
    job = new_job(request, spec, scorer, objective, plan, validation=validation, places=named)
    return fit_policy(request, job, layout, spec.peft, tokenizer)
