"""Whether a judge agrees with people: how often it prefers the response that was chosen in held-out pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from posttrain.data.choose import representative
from posttrain.data.encode import encode_response
from posttrain.rewards.endpoint_judge import ModelJudge
from posttrain.rewards.judge import Judge
from posttrain.rewards.rows import columns_of, sample_rows
from posttrain.runtime.progress import Progress, counted
from posttrain.statistics.intervals import prompt_wins, share_interval
from schemas.estimates import Estimate
from schemas.judge import EndpointJudge
from schemas.recipe import Recipe

PAIRS = 256  # held-out pairs that a function or a reward model judges
WHOLE = 1 << 30  # tokens that no row has: functions see what people saw


def judge_agreement(
    recipe: Recipe, judge: Judge | None, model_judge: ModelJudge | None, table: pl.DataFrame, tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
) -> dict[str, Estimate]:  # fmt: skip
    """`judge_agreement`, ties counting half, with its 95% interval over prompts, and the number of pairs that it is of.

    Pairs that the judge cannot judge are left out. Nothing where none is left, or the recipe asks for none.

    Args:
        judge: scores one response at a time; where there is none, `model_judge` compares two.
        table: held-out pairs.
        tokenizer: of the candidate, for what functions see of a row.
    """
    spec = recipe.evaluation.judge
    pairs = representative(table, spec.pairs if isinstance(spec, EndpointJudge) else PAIRS)
    if pairs.is_empty():
        return {}
    count = counted(progress, "evaluate: judging pairs", pairs.height)
    prompts = pairs["prompt"].to_list()
    sides = [[_text(side) for side in pairs[name].to_list()] for name in ("chosen", "rejected")]
    if judge is not None:
        rows = _rows(pairs, prompts, sides, tokenizer)
        rewards = judge([*prompts, *prompts], [*sides[0], *sides[1]], lambda done: count(done // 2), rows)
        won = prompt_wins(rewards[: len(prompts)], rewards[len(prompts) :]).tolist()
    else:
        assert model_judge
        won = [float("nan") if share is None else share for share in model_judge.compare(prompts, sides[0], sides[1], count)]
    judged = [(share, json.dumps(prompt)) for share, prompt in zip(won, prompts, strict=True) if share == share]
    if not judged:
        return {}
    numbers = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompt for _, prompt in judged))}
    agreement = share_interval([share for share, _ in judged], groups=[numbers[prompt] for _, prompt in judged])
    return {"judge_agreement": agreement, "judge_agreement_pairs": Estimate(float(len(judged)))}


def _text(side: Sequence[dict[str, Any]]) -> str:
    """What the assistant says in one side of a pair."""
    return "\n\n".join(str(message["content"]) for message in side)


def _rows(
    pairs: pl.DataFrame, prompts: list[Any], sides: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """What functions see of the chosen responses, then of the rejected ones."""
    columns, rows = columns_of(pairs), []
    for texts in sides:
        read = [encode_response(prompt, text, tokenizer, WHOLE) for prompt, text in zip(prompts, texts, strict=True)]
        ids, answers = [each.prompt for each in read], [each.branches[0] for each in read]
        rows += sample_rows(columns, prompts, ids, answers, [True] * len(texts))
    return rows
