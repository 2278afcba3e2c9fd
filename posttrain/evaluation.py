"""Held-out evaluation: the candidate against its ancestors, with the same prompts and seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerBase

from posttrain.architectures import longest_sequence
from posttrain.data.encode import encode_conversations, encode_documents, encode_prompts
from posttrain.device import resolve_device, resolve_dtype
from posttrain.losses.preference import score
from posttrain.models import load_config, load_model, load_tokenizer
from posttrain.packing import Example
from posttrain.peak import measured
from posttrain.peft.soft_prompts import room
from posttrain.peft.unmerged import virtual_tokens_of
from posttrain.policy import Policy
from posttrain.progress import Progress, counted
from posttrain.reference import score_branches
from posttrain.rewards import Judge, open_judge
from posttrain.rollouts import Sampling, sample
from posttrain.scoring import Scorer, choose_layout, inner_model
from posttrain.statistics import Interval, ratio_interval, win_rate
from posttrain.store import Built
from posttrain.token_budget import scoring_tokens
from posttrain.trainers.objectives import LanguageModelling
from posttrain.trainers.validation import mean_loss
from schemas.errors import Refusal
from schemas.evaluation import Evaluation
from schemas.recipe import Recipe
from schemas.training import DPO

Conversations = list[list[dict[str, Any]]]
PERPLEXITY_EXAMPLES = 512  # held-out pieces of text that perplexity is taken over


@dataclass(frozen=True)
class HeldOut:
    """Rows that no training stage saw; None where the recipe has no such data."""

    documents: pl.DataFrame | None
    instructions: pl.DataFrame | None
    preferences: pl.DataFrame | None


@dataclass(frozen=True)
class Responses:
    """One policy's answers to the held-out prompts, in the order of `asked`."""

    texts: list[str]
    rewards: list[float]
    ended: list[bool]  # whether the response ends in EOS
    examples: list[Example]  # prompt and own response as tokens


@dataclass(frozen=True)
class Measured:
    """One policy on the held-out rows."""

    responses: Responses
    perplexity: float | None
    logprobs: torch.Tensor | None  # [pairs, 2] of the held-out pairs, in the unit of the alignment's loss


@measured
def evaluate(
    recipe: Recipe, policies: Mapping[str, Policy], held_out: HeldOut, out: Path, progress: Progress,
    reward_model: Path | None = None,
) -> Built:  # fmt: skip
    """Measure every policy (the candidate is the last) and compare; writes `evaluation.json` and `samples.parquet`.

    `reward_model` is the folder of the stage reward, for a recipe that judges by it.

    Raises:
        Refusal: when there is no held-out prompt, or the judge misbehaves.
    """
    prompts = asked(held_out, recipe.evaluation)
    own_kl: tuple[float, Interval] | None = None
    judge = open_judge(recipe, reward_model)
    limit = min(longest_sequence(load_config(policy)) - virtual_tokens_of(policy.adapters) for policy in policies.values())
    measured = {n: _measure(recipe, n, policy, held_out, prompts, limit, judge, progress) for n, policy in policies.items()}
    candidate = list(policies)[-1]
    if len(policies) > 1 and recipe.alignment.algorithm != "none":
        own_kl = _kl(recipe, policies, measured[candidate].responses.examples)
    numbers = _compare(recipe, measured, own_kl)
    _write(out, prompts, measured, numbers, own_kl)
    return Built(numbers, {"evaluation": "evaluation.json", "samples": "samples.parquet"})


def _measure(
    recipe: Recipe, name: str, policy: Policy, held_out: HeldOut, prompts: Conversations, limit: int, judge: Judge,
    progress: Progress,
) -> Measured:  # fmt: skip
    """One policy, which is in memory only here; `limit` is the longest sequence that all policies can read, in tokens."""
    scorer, tokenizer = open_policy(recipe, policy)
    responses = respond(recipe, name, scorer, tokenizer, prompts, progress, judge)
    progress.note(f"evaluate {name}: {choose_layout(scorer, responses.examples)}")
    perplexity = _perplexity(scorer, tokenizer, held_out, limit)
    return Measured(responses, perplexity, _pair_logprobs(recipe, scorer, tokenizer, held_out, limit))


def held_out_prompts(held_out: HeldOut, limit: int) -> Conversations:
    """The first `limit` distinct held-out prompts: of the preferences where there are some, else of the instructions."""
    table = held_out.preferences if held_out.preferences is not None else held_out.instructions
    prompts: Conversations = [] if table is None else table["prompt"].to_list()
    distinct = list({json.dumps(prompt, sort_keys=True): prompt for prompt in prompts}.values())[:limit]
    if not distinct:
        raise Refusal("data.holdout", "no held-out prompt", "at least one", "raise data.holdout, or give more rows")
    return distinct


def asked(held_out: HeldOut, spec: Evaluation) -> Conversations:
    """What every policy answers: each held-out prompt `spec.samples` times in a row."""
    return [prompt for prompt in held_out_prompts(held_out, spec.prompts) for _ in range(spec.samples)]


def open_policy(recipe: Recipe, policy: Policy) -> tuple[Scorer, PreTrainedTokenizerBase]:
    """A policy ready to score and sample."""
    device = resolve_device(recipe.compute)
    return Scorer(load_model(policy, device), device, resolve_dtype(recipe.compute)).eval(), load_tokenizer(policy)


def respond(
    recipe: Recipe, name: str, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, prompts: Conversations, progress: Progress,
    judge: Judge,
) -> Responses:  # fmt: skip
    """Sample one answer per prompt and have it judged."""
    config, spec = inner_model(scorer.model).config, recipe.evaluation
    new = min(spec.max_new_tokens, room(scorer.model) - 1)
    ids = encode_prompts(prompts, tokenizer, config.is_encoder_decoder, room(scorer.model) - new)
    count = counted(progress, f"evaluate {name}", len(prompts))
    plan = Sampling(max_new_tokens=new, temperature=spec.temperature, seed=recipe.seed,
                    eos=tokenizer.eos_token_id, pad=tokenizer.pad_token_id)  # fmt: skip
    with scorer.arithmetic():
        generated = [response for (response,) in sample(scorer.model, ids, plan, count)]
    texts = tokenizer.batch_decode([tokens.tolist() for tokens in generated], skip_special_tokens=True)
    return Responses(
        texts=texts,
        rewards=list(judge(prompts, texts)),
        ended=[bool(tokens[-1] == tokenizer.eos_token_id) for tokens in generated],
        examples=[Example(prompt, (tokens,)) for prompt, tokens in zip(ids, generated, strict=True)],
    )


def _held_out_examples(
    scorer: Scorer, tokenizer: PreTrainedTokenizerBase, table: pl.DataFrame, field: str, limit: int
) -> list[Example]:
    """Rows are measured whole where the models can read them, whatever the limit of training."""
    two_parts = inner_model(scorer.model).config.is_encoder_decoder
    return encode_conversations(table, tokenizer, limit, field, encoder_decoder=two_parts).examples


def _perplexity(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, limit: int) -> float | None:
    """Per token, on held-out documents where there are some, else on held-out answers."""
    if held_out.documents is not None and len(held_out.documents):
        two_parts = inner_model(scorer.model).config.is_encoder_decoder
        examples = encode_documents(held_out.documents["text"].to_list(), tokenizer, min(256, limit), two_parts)
    else:
        table = held_out.instructions if held_out.instructions is not None else held_out.preferences
        if table is None:
            return None
        examples = _held_out_examples(scorer, tokenizer, table.drop("rejected", strict=False), "data", limit)
    objective = LanguageModelling(examples[:PERPLEXITY_EXAMPLES])
    return math.exp(mean_loss(scorer, objective, scoring_tokens(scorer.device))) if objective.examples else None


def _pair_logprobs(
    recipe: Recipe, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, limit: int
) -> torch.Tensor | None:
    """[pairs, 2] of the held-out pairs, where alignment asks for them: summed or per token, as its loss compares them."""
    if held_out.preferences is None or recipe.alignment.algorithm == "none":
        return None
    pairs = _held_out_examples(scorer, tokenizer, held_out.preferences, "data.preferences", limit)
    if not pairs:
        return None
    lengths = torch.tensor([[len(branch) for branch in pair.branches] for pair in pairs])
    loss = recipe.alignment.loss if isinstance(recipe.alignment, DPO) else "sigmoid"
    return score(score_branches(scorer, pairs, scoring_tokens(scorer.device)), lengths, loss)


def _kl(recipe: Recipe, policies: Mapping[str, Policy], samples: list[Example]) -> tuple[float, Interval]:
    """KL(candidate || reference) per token in nats, on the candidate's own samples (k1 estimator)."""
    *_, reference, candidate = policies.values()
    scores = [_own_scores(recipe, policy, samples) for policy in (candidate, reference)]
    tokens = [example.targets for example in samples]
    return ratio_interval((scores[0] - scores[1]).tolist(), tokens, recipe.evaluation.samples)


def _own_scores(recipe: Recipe, policy: Policy, samples: list[Example]) -> torch.Tensor:
    """Log-probabilities [samples] under one policy, which is in memory only here."""
    scorer, _ = open_policy(recipe, policy)
    choose_layout(scorer, samples)
    return score_branches(scorer, samples, scoring_tokens(scorer.device))[:, 0]


def _compare(recipe: Recipe, measured: Mapping[str, Measured], kl: tuple[float, Interval] | None) -> dict[str, float]:
    """Flat numbers: rewards, win rates, preference accuracy, perplexities, KL; intervals as `_low` and `_high`."""
    *opponents, candidate = measured
    numbers: dict[str, float] = {}
    samples = recipe.evaluation.samples
    for name, m in measured.items():
        numbers |= _with_interval(f"reward_{name}", *ratio_interval(m.responses.rewards, samples=samples))
        if m.perplexity is not None:
            numbers[f"perplexity_{name}"] = m.perplexity
        numbers[f"eos_share_{name}"] = float(np.mean(m.responses.ended))
        numbers[f"response_tokens_{name}"] = float(np.mean([example.targets for example in m.responses.examples]))
    for name in opponents:
        numbers |= _with_interval(
            f"win_rate_vs_{name}", *win_rate(measured[candidate].responses.rewards, measured[name].responses.rewards, samples)
        )
    if opponents and "perplexity_base" in numbers:
        numbers["perplexity_ratio_vs_base"] = numbers[f"perplexity_{candidate}"] / numbers["perplexity_base"]
    policy, reference = measured[candidate].logprobs, measured[opponents[-1]].logprobs if opponents else None
    if kl is not None:
        numbers |= _with_interval("kl_per_token", *kl)
    if recipe.alignment.algorithm != "none" and policy is not None and reference is not None:
        ratios = (policy - reference).double()  # to the policy before alignment, also for a loss that trains without a reference
        scale = recipe.alignment.beta if isinstance(recipe.alignment, DPO) else 1.0  # PPO: the margin is in nats
        margins = scale * (ratios[:, 0] - ratios[:, 1])
        numbers |= _with_interval("preference_accuracy", *ratio_interval(((margins > 0) + 0.5 * (margins == 0)).tolist()))
        numbers |= _with_interval("preference_margin", *ratio_interval(margins.tolist()))
    return numbers


def _with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _write(
    out: Path, prompts: Conversations, measured: Mapping[str, Measured], numbers: Mapping[str, float],
    kl: tuple[float, Interval] | None,
) -> None:  # fmt: skip
    def entry(name: str) -> dict[str, Any]:
        interval = [numbers[f"{name}_low"], numbers[f"{name}_high"]] if f"{name}_low" in numbers else None
        return {"value": numbers[name], "interval": interval}

    plain = [name for name in numbers if not name.endswith(("_low", "_high"))]
    wins = [{"opponent": n.removeprefix("win_rate_vs_"), **entry(n)} for n in plain if n.startswith("win_rate_vs_")]
    policies = [
        {
            "policy": name,
            "reward": numbers[f"reward_{name}"],
            "reward_interval": entry(f"reward_{name}")["interval"],
            "kl_per_token": kl[0] if kl and index == len(measured) - 1 else 0.0 if index == len(measured) - 2 else None,
            "length": numbers[f"response_tokens_{name}"],
            "eos_share": numbers[f"eos_share_{name}"],
            "perplexity": numbers.get(f"perplexity_{name}"),
        }
        for index, name in enumerate(measured)
    ]
    others = [{"name": n, "unit": "", **entry(n)} for n in plain if not n.startswith("win_rate_vs_")]
    (out / "evaluation.json").write_text(json.dumps({"win_rates": wins, "metrics": others, "policies": policies}, indent=1))
    columns: dict[str, list[Any]] = {"prompt": [prompt[-1]["content"] for prompt in prompts]}
    for name, m in measured.items():
        columns |= {f"response_{name}": m.responses.texts, f"reward_{name}": m.responses.rewards}
    pl.DataFrame(columns).write_parquet(out / "samples.parquet")
