"""Words of folded texts in bins: a linear classifier on words and pairs of words, divergence from a corpus, listed words.

And numbers in bins, for histograms.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.text.kernels.compiling import kernel
from posttrain.text.kernels.grams import beginnings, words
from posttrain.text.kernels.text import BASE, MIXER, Bytes, Hashes, Places, hashed, longest

BINS: Final = 1 << 16  # of words, for the divergence
FEATURES: Final = 1 << 18  # of words and pairs of words, for the classifier

Floats = NDArray[np.float64]


@kernel
def _scattered(value: int) -> int:
    value = (value ^ (value >> np.uint64(31))) * MIXER
    return value ^ (value >> np.uint64(29))


@kernel
def features(found: Hashes, count: int, out: Places) -> int:
    """The bins of the words and of the pairs of neighbours among `count` words; returns how many, 2 * count - 1."""
    for at in range(count):
        out[at] = np.int64(_scattered(found[at]) & np.uint64(FEATURES - 1))
    for at in range(count - 1):
        out[count + at] = np.int64(_scattered(found[at] * BASE ^ found[at + 1]) & np.uint64(FEATURES - 1))
    return max(2 * count - 1, 0)


@kernel
def _logit(weights: Floats, bins: Places, count: int) -> float:
    total = 0.0
    for at in range(count):
        total += weights[bins[at]]
    return weights[FEATURES] + total / max(count, 1)


@kernel
def scores(data: Bytes, starts: Places, ends: Places, flags: Bytes, weights: Floats, out: Floats) -> None:
    """Logits of some folded texts, shape (documents,).

    Args:
        weights: of the bins, and behind them the bias, shape (FEATURES + 1,).
    """
    size = longest(starts, ends)
    found, bins = np.empty(size + 1, np.uint64), np.empty(2 * size + 2, np.int64)
    for each in range(len(starts)):
        count = words(data, starts[each], ends[each], flags, found)
        out[each] = _logit(weights, bins, features(found, count, bins))


@kernel
def learn(
    data: Bytes, starts: Places, ends: Places, flags: Bytes, labels: Floats, order: Places, rates: Floats, weights: Floats
) -> None:  # fmt: skip
    """One step of logistic regression on each text of `order`: stochastic gradient descent, without momentum.

    Args:
        labels: 1 for a good text, 0 for a bad one, shape (documents,).
        rates: of each step, shape (steps,).
    """
    size = longest(starts, ends)
    found, bins = np.empty(size + 1, np.uint64), np.empty(2 * size + 2, np.int64)
    for step in range(len(order)):
        each = order[step]
        count = features(found, words(data, starts[each], ends[each], flags, found), bins)
        error = labels[each] - 1.0 / (1.0 + np.exp(-_logit(weights, bins, count)))
        weights[FEATURES] += rates[step] * error
        for at in range(count):
            weights[bins[at]] += rates[step] * error / count


@kernel
def counts(data: Bytes, starts: Places, ends: Places, flags: Bytes, out: Places) -> None:
    """Add the words of some folded texts to the counts of their bins, shape (BINS,)."""
    size = longest(starts, ends)
    found = np.empty(size + 1, np.uint64)
    for each in range(len(starts)):
        for at in range(words(data, starts[each], ends[each], flags, found)):
            out[np.int64(_scattered(found[at]) & np.uint64(BINS - 1))] += 1


@kernel
def divergences(data: Bytes, starts: Places, ends: Places, flags: Bytes, logs: Floats, out: Floats) -> None:
    """Kullback-Leibler divergence of each folded text's words from the corpus, in nats; 0 for a text without words.

    Args:
        logs: logarithms of the shares of the bins in the corpus, shape (BINS,).
    """
    size = longest(starts, ends)
    found, own = np.empty(size + 1, np.uint64), np.zeros(BINS, np.int64)
    for each in range(len(starts)):
        count, total = words(data, starts[each], ends[each], flags, found), 0.0
        for at in range(count):
            own[np.int64(_scattered(found[at]) & np.uint64(BINS - 1))] += 1
        for at in range(count):
            place = np.int64(_scattered(found[at]) & np.uint64(BINS - 1))
            if own[place]:
                share = own[place] / count
                total += share * (np.log(share) - logs[place])
                own[place] = 0
        out[each] = total


@kernel
def known_words(
    data: Bytes, starts: Places, ends: Places, flags: Bytes, known: Hashes, longest_run: int, powers: Hashes, out: Floats
) -> None:
    """Share of the words of each folded text that stand in one of the known words and phrases.

    Args:
        known: sorted hashes of runs of one to `longest_run` words (`grams.runs`).
    """
    size = longest(starts, ends)
    found, prefix = np.empty(size + 1, np.uint64), np.empty(size + 2, np.uint64)
    for each in range(len(starts)):
        count = words(data, starts[each], ends[each], flags, found)
        beginnings(found, count, prefix)
        inside = np.zeros(count, np.uint8)
        for length in range(1, longest_run + 1):
            for at in range(count - length + 1):
                value = hashed(prefix, powers, at, at + length)
                place = np.searchsorted(known, value)
                if place < len(known) and known[place] == value:
                    inside[at : at + length] = 1
        out[each] = inside.sum() / max(count, 1)


@kernel
def count_between(values: Floats, edges: Floats, counts: Places) -> None:
    """Add how many values lie between each edge and the next; those outside fall into the outermost bins.

    Each edge is compared with all values, many at a time: a tenth of the time in which the place of each value is searched.

    Args:
        edges: ascending, shape (bins + 1,).
        counts: shape (bins,).
    """
    before = len(values)
    for edge in range(1, len(edges) - 1):
        beyond, limit = 0, edges[edge]
        for at in range(len(values)):
            beyond += values[at] >= limit
        counts[edge - 1] += before - beyond
        before = beyond
    counts[-1] += before
