"""The numbers of evaluation: what follows from the answers and scores of every policy, and the files that keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from posttrain.evaluation.answers import (
    Responses,
    distinct,
    length_ratio,
    mean_reward,
    per_prompt,
    win_rates,
    won_of,
    worst_source,
)
from posttrain.evaluation.asked import Asked
from posttrain.losses.preference import Hyperparameters, preference_loss, score
from posttrain.statistics.auc import auc
from posttrain.statistics.calibration import expected_calibration_error, reliability
from posttrain.statistics.intervals import Rewards, ratio_interval, share_interval, wins
from posttrain.statistics.length_control import length_controlled
from schemas.estimates import Estimate
from schemas.recipe import Recipe
from schemas.training import DPO

PAIRS = "pairs.parquet"
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class RowScores:
    """Log-probabilities of the answers in held-out rows; a row that the policy cannot read is not among them."""

    rows: list[int]  # of the held-out table
    tokens: Tensor  # [rows, answers per row]
    logprobs: Tensor  # the same, summed over tokens
    prompts: list[int]  # rows of one prompt have the same number: they are not independent of each other
    cut: int = 0  # rows whose prompt lost tokens on its left

    def only(self, rows: Sequence[int]) -> RowScores:
        """Some of the rows, in this order."""
        at = {row: index for index, row in enumerate(self.rows)}
        chosen = [at[row] for row in rows]
        return RowScores(list(rows), self.tokens[chosen], self.logprobs[chosen], [self.prompts[index] for index in chosen])


@dataclass(frozen=True)
class Labelled:
    """Held-out answers that somebody liked or did not."""

    scores: RowScores
    desirable: list[bool]  # of each of its rows


@dataclass(frozen=True)
class Measured:
    """One policy on the held-out rows."""

    responses: Responses
    texts: dict[str, float]  # `perplexity` of held-out text, and where that goes `word_perplexity` and `bits_per_byte`
    pairs: RowScores | None  # of the held-out pairs, where the recipe aligns
    answers: Tensor | None  # [answers] log-probabilities of the candidate's answers, where the divergence is measured
    labelled: Labelled | None = None  # of the held-out feedback, where the recipe aligns


def compare(
    recipe: Recipe,
    measured: Mapping[str, Measured],
    compared: Mapping[str, Rewards] = MappingProxyType({}),
    sources: Sequence[str] = (),
) -> dict[str, Estimate]:
    """By name: rewards, win rates, preference accuracy, perplexities, KL, lengths, ends and variety of the candidate's answers.

    The last of `measured` is the candidate, the one before it the reference. `compared` has, by opponent, what each answer of the
    candidate wins, from a judge that compares two; `sources` where each prompt is from.
    """
    *opponents, candidate = measured
    ours, samples = measured[candidate], recipe.evaluation.samples
    found: dict[str, Estimate] = {}
    for name, m in measured.items():
        found |= _of_policy(name, m, samples)
    for name in opponents:
        found[f"length_ratio_vs_{name}"] = length_ratio(ours.responses, measured[name].responses, samples)
        won = won_of(ours.responses, measured[name].responses, compared.get(name), samples)
        if won is not None:
            found |= win_rates(name, won, ours.responses, measured[name].responses, samples)
            found |= worst_source(name, won, sources)
    found["eos_share"] = share_interval(per_prompt(ours.responses.ended, samples))
    found["distinct_2"] = Estimate(distinct(ours.responses.texts))
    if opponents and "perplexity_base" in found:
        ratio = found[f"perplexity_{candidate}"].value / found["perplexity_base"].value
        found["perplexity_ratio_vs_base"] = Estimate(ratio)
    if opponents:
        found |= _against_reference(recipe, ours, measured[opponents[-1]])
    return {name: _with_ends(estimate) for name, estimate in found.items()}


def _against_reference(recipe: Recipe, ours: Measured, reference: Measured) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    if ours.answers is not None and reference.answers is not None:
        # KL(candidate || reference) per token in nats at `evaluation.temperature`, on the candidate's own answers (k1 estimator).
        tokens = [example.targets for example in ours.responses.examples]
        log_ratios = (ours.answers - reference.answers).tolist()
        found["kl_per_token"] = ratio_interval(log_ratios, tokens, recipe.evaluation.samples)
    if ours.pairs is not None and reference.pairs is not None:
        # To the policy before alignment, also for a loss that trains without a reference.
        margins = pair_margins(recipe, ours.pairs, reference.pairs)
        found["preference_accuracy"] = share_interval(wins(margins).tolist(), groups=ours.pairs.prompts)
        found["preference_margin"] = ratio_interval(margins.tolist(), groups=ours.pairs.prompts)
        found["preference_accuracy_length_controlled"] = length_controlled(
            wins(margins).tolist(), (ours.pairs.tokens[:, 0] - ours.pairs.tokens[:, 1]).tolist(), ours.pairs.prompts
        )
        found["calibration_error"] = Estimate(expected_calibration_error(reliability(margins.numpy())))
    if ours.labelled is not None and reference.labelled is not None:
        found |= _of_feedback(ours.labelled, reference.labelled)
    return found


def _of_feedback(ours: Labelled, reference: Labelled) -> dict[str, Estimate]:
    """How well the log-ratio of an answer to the reference, which is its implicit reward but for β, tells the labels apart."""
    ratios = (ours.scores.logprobs - reference.scores.logprobs).double()[:, 0].tolist()
    area = auc(ratios, ours.desirable, ours.scores.prompts)
    return {} if area is None else {"feedback_auc": area}


def _of_policy(name: str, m: Measured, samples: int) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    if m.responses.rewards is not None and any(reward is not None for reward in m.responses.rewards):
        found[f"reward_{name}"] = mean_reward(m.responses.rewards, samples)
    found |= {f"{what}_{name}": Estimate(value) for what, value in m.texts.items()}
    found[f"eos_share_{name}"] = Estimate(float(np.mean(m.responses.ended)))
    found[f"response_tokens_{name}"] = Estimate(float(np.mean([example.targets for example in m.responses.examples])))
    return found


def pair_margins(recipe: Recipe, policy: RowScores, reference: RowScores) -> Tensor:
    """[pairs] by how much the policy prefers chosen over rejected more than the reference does, as the loss compares them.

    Log-ratios summed over tokens (KTO's too) or per token, times β; for PPO summed, in nats. Both must hold the same rows.
    """
    spec = recipe.alignment
    loss = spec.loss if isinstance(spec, DPO) and not spec.unpaired else "sigmoid"
    beta = spec.beta if isinstance(spec, DPO) else 1.0
    ratios = (score(policy.logprobs, policy.tokens, loss) - score(reference.logprobs, reference.tokens, loss)).double()
    return beta * (ratios[:, 0] - ratios[:, 1])


def pair_losses(spec: DPO, policy: RowScores, reference: RowScores) -> Tensor:
    """[pairs] the alignment's loss of a policy against a reference on held-out pairs; both must hold the same rows.

    What a loss takes per token is per token of the reference.
    """
    numbers = Hyperparameters(spec.beta, spec.label_smoothing, spec.simpo_gamma or 0.0)
    losses, _ = preference_loss(policy.logprobs, reference.logprobs, reference.tokens, spec.loss, numbers, spec.sft_weight)
    return losses.double()


def _with_ends(estimate: Estimate) -> Estimate:
    """The estimate; without its interval where that has no ends, as that of a single prompt."""
    return estimate if np.isfinite([estimate.low, estimate.high]).all() else Estimate(estimate.value)


def write(
    out: Path, recipe: Recipe, asked: Asked, measured: Mapping[str, Measured], numbers: Mapping[str, Estimate],
    compared: Mapping[str, Rewards] = MappingProxyType({}),
) -> dict[str, str]:  # fmt: skip
    """Write `evaluation.json`, `samples.parquet` and, where pairs were scored, `pairs.parquet`; returns the stage's outputs."""
    document = _document(recipe.evaluation.temperature, measured, numbers) | {"reliability": _reliability(recipe, measured)}
    (out / "evaluation.json").write_text(json.dumps(document, indent=1))
    columns: dict[str, list[Any]] = {"prompt": [prompt[-1]["content"] for prompt in asked.conversations]}
    columns["source"] = [source for source in asked.sources for _ in range(recipe.evaluation.samples)]
    for name, m in measured.items():
        columns[f"response_{name}"] = m.responses.texts
        if m.responses.rewards is not None:
            columns[f"reward_{name}"] = m.responses.rewards
    columns |= {f"won_vs_{name}": list(won) for name, won in compared.items()}
    pl.DataFrame(columns).write_parquet(out / "samples.parquet")
    outputs = {"evaluation": "evaluation.json", "samples": "samples.parquet"}
    pairs = {name: m.pairs for name, m in measured.items() if m.pairs is not None}
    if not pairs:
        return outputs
    _pair_table(pairs).write_parquet(out / PAIRS)
    return outputs | {"pairs": PAIRS}


def _reliability(recipe: Recipe, measured: Mapping[str, Measured]) -> list[dict[str, float]]:
    """The calibration curve of the candidate's implicit rewards; empty where no pairs were scored."""
    ours, reference = (m.pairs for m in [*measured.values()][:-3:-1]) if len(measured) > 1 else (None, None)
    if ours is None or reference is None:
        return []
    return [vars(point) for point in reliability(pair_margins(recipe, ours, reference).numpy())]


def _pair_table(pairs: Mapping[str, RowScores]) -> pl.DataFrame:
    """One line per held-out pair: its row, its tokens, and what every policy gives to both sides."""
    some = next(iter(pairs.values()))
    columns: dict[str, Any] = {"row": some.rows, "prompt": some.prompts}
    for index, side in enumerate(SIDES):
        columns[f"tokens_{side}"] = some.tokens[:, index].tolist()
        columns |= {f"{side}_{name}": each.logprobs[:, index].tolist() for name, each in pairs.items()}
    return pl.DataFrame(columns)


def read_pairs(folder: Path, policy: str) -> RowScores:
    """What `write` kept of a policy's scores of the held-out pairs."""
    table = pl.read_parquet(folder / PAIRS, glob=False)
    tokens, logprobs = (
        torch.tensor(table.select(f"{side}_{what}" if what == policy else f"{what}_{side}" for side in SIDES).rows())
        for what in ("tokens", policy)
    )
    return RowScores(table["row"].to_list(), tokens, logprobs, table["prompt"].to_list())


def _unit(name: str, temperature: float) -> str:
    """At which temperature a number holds: that of the answers, or 1 where given texts are scored."""
    if name.startswith("held_out"):
        return "held-out rows"
    if name.startswith("judge"):
        return "held-out pairs" if name.startswith("judge_agreement") else "questions to the judge"
    if name.startswith(("perplexity", "word_perplexity", "bits_per_byte", "preference", "feedback", "calibration")):
        return "texts at temperature 1"
    return f"{'nats, ' if name == 'kl_per_token' else ''}answers at temperature {temperature:g}"


def _document(temperature: float, measured: Mapping[str, Measured], numbers: Mapping[str, Estimate]) -> dict[str, Any]:
    """What the report reads."""

    def value(name: str) -> float | None:
        return numbers[name].value if name in numbers else None

    def interval(name: str) -> tuple[float, float] | None:
        return numbers[name].interval if name in numbers else None

    def entry(name: str) -> dict[str, Any]:
        return {"value": value(name), "interval": interval(name)}

    *ancestors, candidate = measured
    divergence: dict[str, float | None] = {ancestors[-1]: 0.0} if ancestors else {}  # of the reference from itself
    divergence |= {candidate: value("kl_per_token")}
    policies = [
        {
            "policy": name,
            "reward": value(f"reward_{name}"),
            "reward_interval": interval(f"reward_{name}"),
            "kl_per_token": divergence.get(name),
            "length": value(f"response_tokens_{name}"),
            "eos_share": value(f"eos_share_{name}"),
            "perplexity": value(f"perplexity_{name}"),
        }
        for name in measured
    ]
    return {
        "win_rates": [{"opponent": n.removeprefix("win_rate_vs_"), **entry(n)} for n in numbers if n.startswith("win_rate_vs_")],
        "temperature": temperature,
        "metrics": [{"name": n, "unit": _unit(n, temperature), **entry(n)} for n in numbers if not n.startswith("win_rate_vs_")],
        "policies": policies,
    }
