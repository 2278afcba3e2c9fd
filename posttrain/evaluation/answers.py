"""The numbers of sampled answers: what is won against an opponent's, rewards, lengths and variety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.data.packing import Example
from posttrain.statistics.intervals import Array, Rewards, judged, mean_of_samples, prompt_wins, ratio_interval, share_interval
from posttrain.statistics.length_control import length_controlled
from schemas.estimates import Estimate

FEWEST = 8  # judged prompts of a source that has a win rate of its own


@dataclass(frozen=True)
class Responses:
    """One policy's answers to the held-out prompts, in the order of `asked`."""

    texts: list[str]
    rewards: list[float | None] | None  # None without a judge of single answers; of one, where it cannot say
    ended: list[bool]  # whether the response ends in EOS
    examples: list[Example]  # prompt and own response as tokens
    cut: int = 0  # prompts that were too long, and lost tokens on their left


def length_ratio(ours: Responses, theirs: Responses, samples: int) -> Estimate:
    """Tokens of the candidate's answers for each token of the opponent's, on the same prompts."""
    mine, other = ([example.targets for example in each.examples] for each in (ours, theirs))
    return ratio_interval(mine, other, samples)


def won_of(ours: Responses, theirs: Responses, compared: Rewards | None, samples: int) -> Array | None:
    """[prompts] share of a prompt's comparisons that are won, NaN where none was judged; None where nobody judges."""
    if compared is not None:
        return mean_of_samples(compared, samples)
    if ours.rewards is None or theirs.rewards is None:
        return None
    return prompt_wins(ours.rewards, theirs.rewards, samples)


def win_rates(name: str, won: Array, ours: Responses, theirs: Responses, samples: int) -> dict[str, Estimate]:
    """Of the prompts that were judged; how many were not is said where there are such."""
    lacking = int(np.isnan(won).sum())
    found = {f"unjudged_vs_{name}": Estimate(float(lacking))} if lacking else {}
    if lacking == won.size:
        return found
    found[f"win_rate_vs_{name}"] = share_interval(judged(won).tolist())
    found[f"length_controlled_win_rate_vs_{name}"] = at_equal_length(won, ours, theirs, samples)
    return found


def worst_source(name: str, won: Array, sources: Sequence[str]) -> dict[str, Estimate]:
    """The lowest win rate over the sources of the prompts; nothing where none was judged, or no source is told.

    Sources with fewer judged prompts than `FEWEST` are taken together; where none has as many, all are.
    """
    there = ~np.isnan(won)
    of = np.asarray(sources, dtype=object)
    if not there.any() or of.size != won.size:
        return {}
    counts = {source: int((there & (of == source)).sum()) for source in dict.fromkeys(sources)}
    groups = [there & (of == source) for source, count in counts.items() if count >= FEWEST]
    rest = there & np.asarray([counts[source] < FEWEST for source in sources])
    groups += [rest] if rest.sum() >= FEWEST else []
    rates = [share_interval(won[group].tolist()) for group in groups or [there]]
    return {f"worst_source_win_rate_vs_{name}": min(rates, key=lambda rate: rate.value)}


def at_equal_length(won: Array, ours: Responses, theirs: Responses, samples: int) -> Estimate:
    """The win rate that answers of equal length would have, of `won` [prompts]; those of NaN are left out."""
    there = ~np.isnan(won)
    lengths = [np.asarray(per_prompt([example.targets for example in each.examples], samples)) for each in (ours, theirs)]
    return length_controlled(won[there].tolist(), (lengths[0] - lengths[1])[there].tolist())


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams of words for each n-gram, over all texts (Li et al. 2016, arXiv 1510.03055); 0 where there is none."""
    grams = [tuple(words[at : at + n]) for text in texts if (words := text.split()) for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def per_prompt(numbers: Sequence[float], samples: int) -> list[float]:
    """Means over the answers to each prompt."""
    return list(np.asarray(numbers, np.float64).reshape(-1, samples).mean(1).tolist())


def mean_reward(rewards: Rewards, samples: int) -> Estimate:
    """Over the answers that have one, with the interval over the prompts that have such an answer.

    Rewards that are all 0 or 1, such as a verifier's, are a share: eight right answers of eight do not exclude a wrong one.
    """
    if {*rewards} <= {0.0, 1.0, None}:
        there = [(reward, place // samples) for place, reward in enumerate(rewards) if reward is not None]
        return share_interval([reward for reward, _ in there], groups=[prompt for _, prompt in there])
    number = [0.0 if reward is None else reward for reward in rewards]
    totals = np.asarray(number, np.float64).reshape(-1, samples).sum(1)
    counts = np.asarray([reward is not None for reward in rewards], np.float64).reshape(-1, samples).sum(1)
    measured = counts > 0
    return ratio_interval(totals[measured].tolist(), counts[measured].tolist())
