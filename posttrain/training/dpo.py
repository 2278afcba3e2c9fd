"""The stage align with a loss of the DPO family, on preference pairs against the policy at step 0."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import polars as pl
import torch

from posttrain.checkpoints.load import load_tokenizer
from posttrain.data.packing import Example
from posttrain.losses.preference import VARIANTS
from posttrain.peft.methods import METHODS
from posttrain.peft.wrap import wrap
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.progress import counted
from posttrain.runtime.store import Built
from posttrain.scoring.known_scores import FILE as KNOWN_SCORES
from posttrain.scoring.known_scores import save_known
from posttrain.scoring.reference import Reference, reference_scores
from posttrain.scoring.scorer import Scorer
from posttrain.scoring.token_budget import scoring_tokens
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
from posttrain.training.objectives import preference
from posttrain.training.request import StageRequest
from posttrain.training.step_zero import step_0_gate
from schemas.training import DPO


@measured
def dpo(request: StageRequest, spec: DPO, pairs: pl.DataFrame) -> Built:
    """A loss of the DPO family, against the policy at step 0 where it has a reference; saves `model/` or `adapter/`.

    The checkpoint's dropout is off: the reference is scored without it, and the policy is compared with it in every step.
    """
    spec = settled("dpo", spec, spec.peft, lambda: start_parameters(request))
    tokenizer = load_tokenizer(request.policy)
    examples = encode_train(request, spec, pairs, tokenizer)
    held_out = encode_held_out(request, spec, pairs, tokenizer)
    start, new = load_start(request, dropout=0.0), request.policy.new_tokens
    scorer = new_scorer(request, wrap(start, spec.peft, request.recipe.seed, "alignment.peft", tokenizer, new))
    layout = ready(scorer, spec.peft, examples)
    compared = VARIANTS[spec.loss].reference
    reference = initial_scores(request, scorer, [*examples, *held_out], "pairs") if compared else None
    objective = preference(spec, examples, reference)
    validation = preference(spec, held_out, None if reference is None else reference[len(examples) :]) if held_out else None
    if compared:
        step_0_gate(scorer, objective)
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, request.recipe.seed)
    named = functools.partial(places, request, pairs)
    job = new_job(request, spec, scorer, objective, plan, validation=validation, places=named)
    built = fit_policy(request, job, layout, spec.peft, tokenizer)
    if reference is not None and held_out and _starts_as_exact_policy(request, spec):
        save_known(request.out / KNOWN_SCORES, held_out, reference[len(examples) :])
        built.outputs["reference"] = KNOWN_SCORES
    return built


def _starts_as_exact_policy(request: StageRequest, spec: DPO) -> bool:
    """Whether the reference is the policy before alignment as evaluation loads it."""
    return METHODS[spec.peft.method].starts_as_base and request.recipe.quantization is None


def initial_scores(request: StageRequest, scorer: Scorer, examples: Sequence[Example], what: str) -> torch.Tensor:
    """[examples, branches] log-probabilities under the initial policy, from the cache where these weights scored them before.

    `what` calls the examples by name.
    """
    weights = [request.policy_digest, request.recipe.quantization or "", Reference(scorer.model).digest()]
    on_rows = counted(request.progress, "reference", len(examples))
    scores, found = reference_scores(request.cache, weights, scorer, examples, scoring_tokens(scorer.device), on_rows)
    request.progress.note(f"reference log-probabilities of {len(examples):,} {what}: {found:,} from the cache")
    return scores
