"""A quality classifier that is trained here: logistic regression on the mean of hashed words and pairs of words.

It is what fastText's classifier is without an embedding (Joulin et al. 2016, arXiv 1607.01759), as Llama 3 (section 3.1.1) uses
one to find documents like the given ones. Training is sequential and seeded, so the same documents give the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from posttrain.filters.kernels.bins import FEATURES, Floats, learn, scores
from posttrain.text.buffers import buffers
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.folding import Folded, fold

EPOCHS: Final = 10
RATE: Final = 20.0  # of the first step; features are means over a document, so gradients are small


def trained(good: Sequence[str], bad: Sequence[str], seed: int) -> Floats:
    """Weights of the bins and the bias, shape (FEATURES + 1,); good and bad documents count alike, however many there are."""
    folded = fold(*buffers(pa.array([*good, *bad], pa.large_string())))
    labels = np.repeat([1.0, 0.0], [len(good), len(bad)])
    generator, most = np.random.default_rng(seed), max(len(good), len(bad))
    order = np.concatenate([generator.permutation(_balanced(len(good), len(bad), most)) for _ in range(EPOCHS)])
    weights = np.zeros(FEATURES + 1)
    rates = RATE * (1 - np.arange(len(order)) / len(order))
    learn(folded.data, folded.starts, folded.ends, flags(), labels, order, rates, weights)
    return weights


def _balanced(good: int, bad: int, most: int) -> np.ndarray:
    """Places of as many good as bad documents; the fewer ones several times."""
    return np.concatenate([np.arange(most) % good, good + np.arange(most) % bad])


def probabilities(folded: Folded, weights: Floats) -> Floats:
    """That each text is a good one, shape (documents,)."""
    out = np.empty(len(folded.starts))
    scores(folded.data, folded.starts, folded.ends, flags(), weights, out)
    return 1 / (1 + np.exp(-out))
