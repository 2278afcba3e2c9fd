"""The stage align with KTO: single answers that are desirable or not, against the policy at step 0."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from posttrain.checkpoints.load import load_tokenizer
from posttrain.data.feedback import unpaired
from posttrain.data.packing import Example, prompt_groups
from posttrain.losses.kto import Weights
from posttrain.peft.wrap import wrap
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.store import Built
from posttrain.training.batches import by_rows
from posttrain.training.dpo import initial_scores
from posttrain.training.fit import (
    encode_rows,
    fit_policy,
    held_out_rows,
    load_start,
    new_job,
    new_scorer,
    ready,
    start_parameters,
)
from posttrain.training.learning_rates import settled
from posttrain.training.request import StageRequest
from posttrain.training.step_zero import step_0_gate_unpaired
from posttrain.training.unpaired import Answers, Mismatch, Unpaired, mismatches
from schemas.training import DPO

Rows = Sequence[int]


@measured
def kto(request: StageRequest, spec: DPO, table: pl.DataFrame) -> Built:
    """KTO against the policy at step 0; saves `model/` or `adapter/`.

    The divergence is estimated once in each optimizer step, over all of its rows whatever the micro-batches, and for the
    validation loss over all held-out rows behind it. The checkpoint's dropout is off, as in `dpo`.

    Args:
        request: where the stage runs.
        spec: section of the recipe.
        table: clean feedback, or clean pairs, both sides of which are then answers.
    """
    spec = settled("dpo", spec, spec.peft, lambda: start_parameters(request))
    tokenizer = load_tokenizer(request.policy)
    answers = unpaired(table)
    examples, rows = encode_rows(request, spec, answers.filter(split="train"), tokenizer)
    held_out, held_rows = held_out_rows(request, spec, answers, tokenizer)
    _note_balance(request, spec, rows["label"])
    start, new = load_start(request, dropout=0.0), request.policy.new_tokens
    scorer = new_scorer(request, wrap(start, spec.peft, request.recipe.seed, "alignment.peft", tokenizer, new))
    layout = ready(scorer, spec.peft, examples)
    plan = by_rows(len(examples), spec.batch_size, spec.epochs, request.recipe.seed)
    score = functools.partial(initial_scores, request, scorer)
    known = score([*examples, *held_out], "answers")[:, 0]
    bos: Any = tokenizer.bos_token_id
    make = functools.partial(objective_of, spec, bos)
    objective = make(Scored(examples, rows["label"], known[: len(examples)]), plan, score)
    unseen = Scored(held_out, held_rows["label"], known[len(examples) :])
    validation = make(unseen, [range(len(held_out))], score) if held_out else None
    step_0_gate_unpaired(scorer, objective)
    job = new_job(request, spec, scorer, objective, plan, validation=validation, places=functools.partial(_places, rows))
    return fit_policy(request, job, layout, spec.peft, tokenizer)


@dataclass(frozen=True)
class Scored:
    """Answers with their labels and their log-probabilities [examples] under the reference."""

    examples: Sequence[Example]
    labels: pl.Series
    reference: Tensor


def objective_of(
    spec: DPO, bos: int | None, answers: Scored, steps: Iterable[Rows], score: Callable[[Sequence[Example], str], Tensor]
) -> Unpaired:
    """The objective that a recipe asks for, with the reference's scores of every mismatch that the steps will meet."""
    given = Answers(answers.examples, torch.tensor(answers.labels.to_list(), dtype=torch.bool), spec.max_length, bos)
    prompts = prompt_groups(answers.examples)
    pairs: dict[Mismatch, None] = dict.fromkeys(pair for rows in steps for pair in mismatches(rows, prompts))
    found = score(given.mismatched(pairs), "answers to other prompts")[:, 0].tolist() if pairs else []
    weights = Weights(spec.beta, spec.desirable_weight, spec.undesirable_weight)
    return Unpaired(given, answers.reference, dict(zip(pairs, found, strict=True)), weights, prompts)


def _note_balance(request: StageRequest, spec: DPO, labels: pl.Series) -> None:
    """Say so where one label outweighs the other: section 4 of the paper wants λ_D n_D from 1 to 4/3 times λ_U n_U."""
    good = int(labels.sum())
    bad = len(labels) - good
    weighed = spec.desirable_weight * good, spec.undesirable_weight * bad
    request.progress.note(f"kto: {good:,} desirable and {bad:,} undesirable answers")
    if good and bad and not weighed[1] <= weighed[0] <= 4 / 3 * weighed[1]:
        better = "desirable" if weighed[0] < weighed[1] else "undesirable"
        value = bad / good * spec.undesirable_weight if better == "desirable" else good / bad * spec.desirable_weight
        request.progress.note(
            f"kto: weighed, desirable answers count {weighed[0] / max(weighed[1], 1e-9):.2f} times as much as undesirable ones; "
            f"the paper wants 1 to 1.33, as with alignment.{better}_weight={value:.3g}"
        )


def _places(rows: pl.DataFrame, examples: Sequence[int]) -> Sequence[str]:
    """File and row of training examples."""
    return [f"{source}:{row}" for source, row in rows[list(examples)].select("source", "row").iter_rows()]
