"""Held-out evaluation: the candidate against its ancestors, with the same prompts and seeds."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_model, load_tokenizer
from posttrain.checkpoints.unmerged import virtual_tokens_of
from posttrain.data.choose import by_source, held_out_pieces, representative, row_keys, row_sources, stratified
from posttrain.data.encode import cut_left, encode_conversations, encode_prompts
from posttrain.data.encode_documents import encode_documents
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example
from posttrain.evaluation.numbers import Labelled, Measured, Responses, compare, write
from posttrain.evaluation.row_scores import Known, row_scores
from posttrain.models.architectures import readable
from posttrain.models.policy import Policy
from posttrain.rewards.judge import Judge, open_judge
from posttrain.rewards.rows import columns_of, sample_rows
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.peak_memory import give_back, measured
from posttrain.runtime.progress import Progress, counted
from posttrain.runtime.store import Built
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.objectives import LanguageModelling
from posttrain.training.validation import mean_loss
from schemas.data import ASKED
from schemas.errors import Refusal
from schemas.estimates import Estimate, flattened
from schemas.evaluation import Evaluation
from schemas.recipe import Recipe

Conversations = list[list[dict[str, Any]]]
PERPLEXITY_EXAMPLES = 512  # held-out pieces of text that perplexity is taken over


@dataclass(frozen=True)
class HeldOut:
    """Rows that no training stage saw; None where the recipe has no such data."""

    documents: pl.DataFrame | None
    instructions: pl.DataFrame | None
    preferences: pl.DataFrame | None
    feedback: pl.DataFrame | None = None
    prompts: pl.DataFrame | None = None
    refused: int = 0
    """Held-out rows beside these, which the candidate's chat template refuses."""

    @property
    def asked(self) -> pl.DataFrame | None:
        """The rows whose prompts are answered: as `Recipe.prompts_table`."""
        return next((table for name in ASKED if (table := getattr(self, name)) is not None), None)


@dataclass(frozen=True)
class Asked:
    """What every policy answers, and the data's columns beside each prompt, for judges that are functions."""

    conversations: Conversations
    columns: list[dict[str, Any]]


@dataclass(frozen=True)
class _Work:
    """What is asked of every policy."""

    recipe: Recipe
    held_out: HeldOut
    asked: Asked
    limit: int  # longest sequence that all policies can read, in tokens
    judge: Judge | None
    progress: Progress
    candidate: str
    reference: str | None  # the policy before the candidate

    @property
    def pairs(self) -> pl.DataFrame | None:
        """Held-out pairs, where the recipe aligns."""
        return self.held_out.preferences if self.aligns else None

    @property
    def feedback(self) -> pl.DataFrame | None:
        """Held-out answers with a label, where the recipe aligns."""
        return self.held_out.feedback if self.aligns else None

    @property
    def aligns(self) -> bool:
        """Whether the recipe has an alignment, which moves the candidate away from the reference."""
        return self.recipe.alignment.algorithm != "none"

    def diverges(self, name: str) -> bool:
        """Whether the divergence is measured between this policy and another one."""
        return self.aligns and self.reference is not None and name in (self.candidate, self.reference)

    def counted(self, name: str, what: str, total: int) -> Callable[[int], None]:
        """Reports `total` units of a policy's work."""
        return counted(self.progress, f"evaluate {name}: {what}", total)


@measured
def evaluate(
    recipe: Recipe, policies: Mapping[str, Policy], held_out: HeldOut, out: Path, progress: Progress,
    reward_model: Path | None = None, known: Known | None = None,
) -> Built:  # fmt: skip
    """Measure every policy (the candidate is the last) and compare; writes `evaluation.json`, `samples.parquet`, `pairs.parquet`.

    Each policy is loaded once: the candidate first, so that the reference scores the candidate's answers while it is in memory.

    Args:
        recipe: what was asked for.
        policies: by name, in the order of training.
        held_out: rows that no policy was trained on.
        out: folder to write into.
        progress: is told of every piece of work.
        reward_model: folder of the stage reward, for a recipe that judges by it.
        known: the reference's scores of held-out pairs, where alignment computed them.

    Raises:
        Refusal: when there is no held-out prompt, or the judge misbehaves.
    """
    limit = min(longest_row(recipe, policy) for policy in policies.values())
    judge = open_judge(recipe, reward_model)
    *ancestors, candidate = policies
    reference = ancestors[-1] if ancestors else None
    work = _Work(recipe, held_out, asked(held_out, recipe.evaluation), limit, judge, progress, candidate, reference)
    found: dict[str, Measured] = {}
    for name in (candidate, *reversed(ancestors)):
        found[name] = _measure(work, name, policies[name], known if name == reference else None, found.get(candidate))
        give_back()  # modules refer to one another: without it the next policy would be in memory beside this one
    ordered = {name: found[name] for name in policies}
    numbers = compare(recipe, ordered) | _counts(work, ordered[candidate])
    outputs = write(out, recipe.evaluation.temperature, work.asked.conversations, ordered, numbers)
    _record(work, out)
    return Built(flattened(numbers), outputs)


def _counts(work: _Work, candidate: Measured) -> dict[str, Estimate]:
    """How many held-out rows the numbers are of, and what was cut or left out of them."""
    held_out, samples = work.held_out, work.recipe.evaluation.samples
    counts = {"prompts": len(work.asked.conversations) // samples, "prompts_cut": candidate.responses.cut // samples}
    if work.pairs is not None:
        read = candidate.pairs.rows if candidate.pairs else []
        counts |= {"pairs": len(read), "pairs_left_out": work.pairs.height - len(read)}
        counts |= {"pairs_cut": candidate.pairs.cut if candidate.pairs else 0}
    return {f"held_out_{name}": Estimate(float(count)) for name, count in (counts | {"refused": held_out.refused}).items()}


def _record(work: _Work, out: Path) -> None:
    """Tell, and keep in `rows.json`, where the prompts are from."""
    sources = by_source(held_out_prompts(work.held_out, work.recipe.evaluation.prompts))
    said = ", ".join(f"{count:,} of {source}" for source, count in sources.items() if source)
    work.progress.note(f"evaluate: {sum(sources.values()):,} held-out prompts{f' ({said})' if said else ''}")
    (out / "rows.json").write_text(json.dumps({"limit": work.limit, "prompts": sources}, indent=1))


def _measure(work: _Work, name: str, policy: Policy, known: Known | None, candidate: Measured | None) -> Measured:
    """One policy, which is in memory only here; `candidate` is None where this is the candidate itself."""
    scorer, tokenizer = open_policy(work.recipe, policy)
    responses = respond(work.recipe, name, scorer, tokenizer, work.asked, work.progress, work.judge, work.limit)
    layout = choose_layout(scorer, responses.examples)
    layout.apply(scorer)
    work.progress.note(f"evaluate {name}: {layout}")
    perplexity = _perplexity(work, name, scorer, tokenizer)
    pairs = None
    if work.pairs is not None:
        pairs = row_scores(scorer, tokenizer, work.pairs, work.limit, work.progress, f"evaluate {name}: pairs", known)
    labelled = None
    if work.feedback is not None:
        what = f"evaluate {name}: feedback"
        scores = row_scores(scorer, tokenizer, work.feedback, work.limit, work.progress, what)
        labelled = None if scores is None else Labelled(scores, work.feedback["label"][scores.rows].to_list())
    answers = None
    if work.diverges(name):
        examples = (candidate.responses if candidate else responses).examples
        count = work.counted(name, "divergence", len(examples))
        answers = score_branches(_as_drawn(scorer, work.recipe), examples, scoring_tokens(scorer.device), count)[:, 0]
    return Measured(responses, perplexity, pairs, answers, labelled)


def _as_drawn(scorer: Scorer, recipe: Recipe) -> Scorer:
    """The policy at the temperature of its answers: log π - log ρ of them estimates KL(π || ρ) of nothing but those policies."""
    same = Scorer(scorer.model, scorer.device, scorer.dtype, scorer.layout, temperature=recipe.evaluation.temperature)
    return same.eval()


def longest_row(recipe: Recipe, policy: Policy) -> int:
    """Tokens of a held-out row that a policy is given: its positions less those of soft prompts, or what the recipe allows."""
    positions = readable(load_config(policy)) - virtual_tokens_of(policy.adapters)
    return min(positions, recipe.evaluation.max_length or positions)


def held_out_prompts(held_out: HeldOut, limit: int) -> pl.DataFrame:
    """At most `limit` distinct prompts of `HeldOut.asked`, of every source its share, in `prompt`, each with its first row.

    Raises:
        Refusal: when there is none.
    """
    table = held_out.asked
    if table is None or table.is_empty():
        raise Refusal(
            where="data.holdout",
            found="no held-out prompt",
            allowed="at least one",
            remedy="raise data.holdout, or give more rows",
        )
    keys = pl.Series([json.dumps(prompt, sort_keys=True) for prompt in table["prompt"].to_list()])
    distinct = table.filter(keys.is_first_distinct())
    return distinct[stratified(row_keys(distinct.select("prompt")), row_sources(distinct), limit)]


def asked(held_out: HeldOut, spec: Evaluation) -> Asked:
    """What every policy answers: each held-out prompt `spec.samples` times in a row."""
    table = held_out_prompts(held_out, spec.prompts)
    each = [pair for pair in zip(table["prompt"].to_list(), columns_of(table), strict=True) for _ in range(spec.samples)]
    return Asked([prompt for prompt, _ in each], [columns for _, columns in each])


def open_policy(recipe: Recipe, policy: Policy) -> tuple[Scorer, PreTrainedTokenizerBase]:
    """A policy ready to score and sample; frozen, so that the check of its layout makes no gradients, as large as the model."""
    device = resolve_device(recipe.compute)
    model = load_model(policy, device).requires_grad_(False)
    return Scorer(model, device, resolve_dtype(recipe.compute)).eval(), load_tokenizer(policy)


def respond(
    recipe: Recipe, name: str, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, asked: Asked, progress: Progress,
    judge: Judge | None, limit: int,
) -> Responses:  # fmt: skip
    """Sample one answer per prompt and have it judged, where there is a judge; both together are at most `limit` tokens long."""
    config, spec = inner_model(scorer.model).config, recipe.evaluation
    new = min(spec.max_new_tokens, limit - 1)
    prompts = asked.conversations
    whole = encode_prompts(prompts, tokenizer, config.is_encoder_decoder)
    ids = [cut_left(prompt, limit - new, tokenizer.bos_token_id) for prompt in whole]
    ends, pad = tuple(end_tokens(tokenizer)), tokenizer.pad_token_id
    plan = Sampling(max_new_tokens=new, temperature=spec.temperature, seed=recipe.seed, ends=ends, pad=pad)
    # On a CPU a step of decoding reads every weight once: rounding them to half precision first takes longer than the products.
    with scorer.arithmetic() if scorer.device.type == "cuda" else contextlib.nullcontext():
        sampled = sample(scorer.model, ids, plan, counted(progress, f"evaluate {name}: sampling", len(prompts)))
    generated = [response for (response,) in sampled]
    texts = tokenizer.batch_decode([tokens.tolist() for tokens in generated], skip_special_tokens=True)
    ended = [int(tokens[-1]) in ends for tokens in generated]
    rows = sample_rows(asked.columns, prompts, ids, generated, ended)
    judged = counted(progress, f"evaluate {name}: judging", len(texts))
    return Responses(
        texts=texts,
        rewards=list(judge(prompts, texts, judged, rows)) if judge else None,
        ended=ended,
        examples=[Example(prompt, (tokens,)) for prompt, tokens in zip(ids, generated, strict=True)],
        cut=sum(len(some) < len(prompt) for some, prompt in zip(ids, whole, strict=True)),
    )


def _perplexity(work: _Work, name: str, scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> float | None:
    """Per token, on held-out documents where there are some, else on held-out answers."""
    held_out, two_parts = work.held_out, inner_model(scorer.model).config.is_encoder_decoder
    if held_out.documents is not None and len(held_out.documents):
        cut = functools.partial(encode_documents, tokenizer=tokenizer, context=min(256, work.limit), encoder_decoder=two_parts)
        examples, _ = held_out_pieces(held_out.documents, PERPLEXITY_EXAMPLES, cut)
    else:
        table = next((t for t in (held_out.instructions, held_out.preferences, _liked(held_out.feedback)) if t is not None), None)
        if table is None:
            return None
        answers = representative(table, PERPLEXITY_EXAMPLES).drop("rejected", strict=False)
        examples = encode_conversations(answers, tokenizer, work.limit, "data", encoder_decoder=two_parts).examples
    objective = LanguageModelling(examples)
    if not objective.examples:
        return None
    count = work.counted(name, "perplexity", len(objective.examples))
    return math.exp(mean_loss(scorer, objective, scoring_tokens(scorer.device), count))


def _liked(feedback: pl.DataFrame | None) -> pl.DataFrame | None:
    """The answers that a policy should give."""
    return None if feedback is None else feedback.filter("label")
