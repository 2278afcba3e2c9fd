"""Held-out evaluation: the candidate against its ancestors, with the same prompts and seeds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_config, load_model, load_tokenizer
from posttrain.checkpoints.unmerged import virtual_tokens_of
from posttrain.data.choose import by_source
from posttrain.data.encode import cut_left, encode_prompts
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example
from posttrain.evaluation.agreement import judge_agreement
from posttrain.evaluation.answers import Responses
from posttrain.evaluation.asked import Asked, HeldOut, asked, held_out_prompts
from posttrain.evaluation.numbers import Labelled, Measured, compare, write
from posttrain.evaluation.perplexity import perplexity
from posttrain.evaluation.row_scores import Known, row_scores
from posttrain.models.architectures import readable
from posttrain.models.policy import Policy
from posttrain.rewards.endpoint_judge import ModelJudge
from posttrain.rewards.judge import Judge, open_judge, open_model_judge
from posttrain.rewards.rows import sample_rows
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.peak_memory import give_back, measured
from posttrain.runtime.progress import Progress, counted
from posttrain.runtime.store import Built
from posttrain.sampling.sampler import Sampling, sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.reference import score_branches
from posttrain.scoring.scorer import Scorer, inner_model
from posttrain.scoring.token_budget import scoring_tokens
from schemas.estimates import Estimate, flattened
from schemas.recipe import Recipe


@dataclass(frozen=True)
class _Work:
    """What is asked of every policy."""

    recipe: Recipe
    held_out: HeldOut
    asked: Asked
    limit: int  # longest sequence that all policies can read, in tokens
    judge: Judge | None  # of one response at a time
    model_judge: ModelJudge | None  # a language model, which may judge two at a time instead
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
    reward_model: Path | None = None, known: Known | None = None, verdicts: Path | None = None,
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
        verdicts: folder where the answers of an endpoint that judges are kept.

    Raises:
        Refusal: when there is no held-out prompt, or the judge misbehaves.
    """
    limit = min(longest_row(recipe, policy) for policy in policies.values())
    model_judge = open_model_judge(recipe, verdicts)
    judge = open_judge(recipe, reward_model, model_judge)
    *ancestors, candidate = policies
    reference = ancestors[-1] if ancestors else None
    prompts = asked(held_out, recipe.evaluation)
    work = _Work(recipe, held_out, prompts, limit, judge, model_judge, progress, candidate, reference)
    ordered = _measured_one_by_one(work, policies, known)
    compared = _compared(work, ordered)
    numbers = (
        compare(recipe, ordered, compared, prompts.sources)
        | _of_judge(work, policies[candidate])
        | _counts(work, ordered[candidate])
    )
    outputs = write(out, recipe, prompts, ordered, numbers, compared)
    _record(work, out)
    return Built(flattened(numbers), outputs)


def _measured_one_by_one(work: _Work, policies: Mapping[str, Policy], known: Known | None) -> dict[str, Measured]:
    """Every policy in the order of training; the candidate is loaded first, since the reference scores its answers."""
    found: dict[str, Measured] = {}
    for name in reversed([*policies]):
        found[name] = _measure(work, name, policies[name], known if name == work.reference else None, found.get(work.candidate))
        give_back()  # modules refer to one another: without it the next policy would be in memory beside this one
    return {name: found[name] for name in policies}


def _compared(work: _Work, measured: Mapping[str, Measured]) -> dict[str, list[float | None]]:
    """What the candidate's answers win against each opponent's, where two are judged at a time; the nearest opponent first."""
    if work.model_judge is None or work.judge is not None:
        return {}
    ours, prompts = measured[work.candidate].responses.texts, work.asked.conversations
    found: dict[str, list[float | None]] = {}
    for name in [*measured][-2::-1]:
        theirs, count = measured[name].responses.texts, work.counted(name, "judging", len(prompts))
        found[name] = work.model_judge.compare(prompts, ours, theirs, count)
    return found


def _of_judge(work: _Work, candidate: Policy) -> dict[str, Estimate]:
    """How the judge does on held-out pairs, and for a language model how many of its verdicts are lacking and why."""
    found: dict[str, Estimate] = {}
    if (work.judge or work.model_judge) and work.held_out.preferences is not None:
        pairs, tokenizer = work.held_out.preferences, load_tokenizer(candidate)
        found |= judge_agreement(work.recipe, work.judge, work.model_judge, pairs, tokenizer, work.progress)
    if work.model_judge:
        found |= work.model_judge.numbers()
        work.progress.note(f"evaluate: {work.model_judge.endpoint.described}")
    return found


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
    read = partial(work.counted, name, "perplexity")
    texts = perplexity(scorer, tokenizer, work.held_out.documents, work.held_out.answers, work.limit, read)
    pairs = None
    if work.pairs is not None:
        pairs = row_scores(scorer, tokenizer, work.pairs, work.limit, work.progress, f"evaluate {name}: pairs", known)
    labelled = None
    if work.feedback is not None:
        what = f"evaluate {name}: feedback"
        scores = row_scores(scorer, tokenizer, work.feedback, work.limit, work.progress, what)
        labelled = None if scores is None else Labelled(scores, work.feedback["label"][scores.rows].to_list())
    divergence = None
    if work.diverges(name):
        examples = (candidate.responses if candidate else responses).examples
        count = work.counted(name, "divergence", len(examples))
        divergence = score_branches(_as_drawn(scorer, work.recipe), examples, scoring_tokens(scorer.device), count)[:, 0]
    return Measured(responses, texts, pairs, divergence, labelled)


def _as_drawn(scorer: Scorer, recipe: Recipe) -> Scorer:
    """The policy at the temperature of its answers: log π - log ρ of them estimates KL(π || ρ) of nothing but those policies."""
    same = Scorer(scorer.model, scorer.device, scorer.dtype, scorer.layout, temperature=recipe.evaluation.temperature)
    return same.eval()


def longest_row(recipe: Recipe, policy: Policy) -> int:
    """Tokens of a held-out row that a policy is given: its positions less those of soft prompts, or what the recipe allows."""
    positions = readable(load_config(policy)) - virtual_tokens_of(policy.adapters)
    return min(positions, recipe.evaluation.max_length or positions)


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
