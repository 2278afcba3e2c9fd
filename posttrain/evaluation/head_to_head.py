"""A candidate against the champion on the same held-out rows, by what `registry.promote_on` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from posttrain.evaluation.asked import HeldOut, asked
from posttrain.evaluation.evaluate import longest_row, open_policy, respond
from posttrain.evaluation.held_out import held_out
from posttrain.evaluation.numbers import RowScores, pair_losses, pair_margins, read_pairs
from posttrain.evaluation.row_scores import row_scores
from posttrain.models.policy import Policy
from posttrain.pipeline.chain import Chain
from posttrain.rewards.judge import open_judge, open_model_judge
from posttrain.runtime.progress import Progress, counted
from posttrain.statistics.intervals import judged, mean_of_samples, prompt_wins, ratio_interval, share_interval, wins
from schemas.errors import Refusal
from schemas.estimates import Estimate
from schemas.recipe import Recipe, policies
from schemas.training import DPO


@dataclass(frozen=True)
class Match:
    """Two policies, and what was measured of one of them."""

    recipe: Recipe
    candidate: Policy
    champion: Policy
    held_out: HeldOut
    evaluation: Path  # folder of the candidate's evaluation
    progress: Progress
    reward_model: Path | None = None  # folder of the stage reward, for a recipe that judges by it
    verdicts: Path | None = None  # folder where the answers of an endpoint that judges are kept


def match_of(chain: Chain, champion: Policy, progress: Progress) -> Match:
    """The candidate of a finished chain against a champion."""
    return Match(
        recipe=chain.recipe, candidate=chain.policy_before("register"), champion=champion, held_out=held_out(chain),
        evaluation=chain.stored("evaluate").folder, progress=progress, reward_model=chain.judging_model(),
        verdicts=chain.verdicts,
    )  # fmt: skip


def against_champion(match: Match, metric: str) -> Estimate:
    """How the candidate does against the champion, and the 95% interval over the held-out rows.

    A win rate is a share of prompts; `preference_accuracy` and `validation_loss` are differences, positive where the candidate is
    the better one.

    Raises:
        Refusal: when there is no held-out row that both can read.
    """
    return _BY_METRIC.get(metric, _win_rate)(match)


def _win_rate(match: Match) -> Estimate:
    """On the prompts and with the seed of this evaluation."""
    scorer, tokenizer = open_policy(match.recipe, match.champion)
    prompts = asked(match.held_out, match.recipe.evaluation)
    model_judge, samples = open_model_judge(match.recipe, match.verdicts), match.recipe.evaluation.samples
    judge, limit = open_judge(match.recipe, match.reward_model, model_judge), longest_row(match.recipe, match.champion)
    theirs = respond(match.recipe, "champion", scorer, tokenizer, prompts, match.progress, judge, limit)
    ours, candidate = pl.read_parquet(match.evaluation / "samples.parquet", glob=False), policies(match.recipe)[-1]
    if model_judge and judge is None:
        count = counted(match.progress, "register champion: judging", len(theirs.texts))
        texts = ours[f"response_{candidate}"].to_list()
        won = mean_of_samples(model_judge.compare(prompts.conversations, texts, theirs.texts, count), samples)
    else:
        assert theirs.rewards is not None  # a recipe that promotes on win rates has a judge
        won = prompt_wins(ours[f"reward_{candidate}"].to_list(), theirs.rewards, samples)
    if np.isnan(won).all():
        raise Refusal(
            where="registry.promote_on",
            found="no held-out prompt on which the judge can say whether candidate or champion is better",
            allowed="at least one",
            remedy="look at the judge, or set promote_on=null",
        )
    return share_interval(judged(won).tolist())


def _accuracy(match: Match) -> Estimate:
    """Difference of the preference accuracies, both against this run's reference, paired by pair."""
    ours, theirs, reference = _pairs(match)
    won = (wins(pair_margins(match.recipe, each, reference)).tolist() for each in (ours, theirs))
    return share_interval([mine - other for mine, other in zip(*won, strict=True)], -1, 1, groups=ours.prompts)


def _loss(match: Match) -> Estimate:
    """By how much the candidate's held-out loss is below the champion's, paired by row.

    After DPO it is the loss of this run's alignment: the champion is scored as if it were this run's policy, against this run's
    reference with this run's β, in this run's rows. After SFT it is the cross-entropy of the answers in nats, per token of the
    candidate's tokenizer, so that a champion with another tokenizer gains nothing by longer tokens.
    """
    if isinstance(match.recipe.alignment, DPO):
        ours, theirs, reference = _pairs(match)
        losses = [pair_losses(match.recipe.alignment, each, reference) for each in (theirs, ours)]
        return ratio_interval((losses[0] - losses[1]).tolist(), groups=ours.prompts)
    ours, theirs = _shared(_answers(match, match.candidate, "candidate"), _answers(match, match.champion, "champion"))
    gained, tokens = (ours.logprobs - theirs.logprobs).double().sum(1), ours.tokens.sum(1)
    return ratio_interval(gained.tolist(), tokens.tolist(), groups=ours.prompts)


_BY_METRIC: dict[str, Callable[[Match], Estimate]] = {"preference_accuracy": _accuracy, "validation_loss": _loss}


def _pairs(match: Match) -> list[RowScores]:
    """Candidate, champion and reference on the held-out pairs; what evaluation measured is not measured again."""
    *_, reference, candidate = policies(match.recipe)
    ours, parent = (read_pairs(match.evaluation, name) for name in (candidate, reference))
    assert match.held_out.preferences is not None  # as a recipe that promotes on what pairs decide
    return _shared(ours, _scored(match, match.champion, "champion", match.held_out.preferences), parent)


def _answers(match: Match, policy: Policy, name: str) -> RowScores:
    assert match.held_out.instructions is not None  # without DPO a policy with an opponent comes of SFT
    return _scored(match, policy, name, match.held_out.instructions)


def _scored(match: Match, policy: Policy, name: str, table: pl.DataFrame) -> RowScores:
    limit = longest_row(match.recipe, policy)
    scored = row_scores(*open_policy(match.recipe, policy), table, limit, match.progress, f"register {name}: held-out rows")
    return scored or RowScores([], torch.zeros(0, 1), torch.zeros(0, 1), [])


def _shared(*scores: RowScores) -> list[RowScores]:
    """The rows that all of them hold."""
    rows = sorted(set.intersection(*(set(each.rows) for each in scores)))
    if not rows:
        raise Refusal(
            where="registry.promote_on",
            found="no held-out row that candidate and champion can read",
            allowed="at least one",
            remedy="shorten the rows, or set promote_on=null",
        )
    return [each.only(rows) for each in scores]
