"""How far the words of each document are distributed unlike those of the corpus: counted first, then compared.

Llama 3 (arXiv 2407.21783, section 3.1.1) removes outliers by the divergence of their tokens; words in 65,536 bins stand
for tokens here. Short documents differ more from any distribution, so the limit is a percentile of the corpus, not a number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.kernels.bins import BINS, counts, divergences
from posttrain.text.kernels.characters import flags
from posttrain.text.kernels.folding import Folded


def counted(folded: Folded, total: NDArray[np.int64]) -> None:
    """Add the words of some texts to the counts of their bins."""
    counts(folded.data, folded.starts, folded.ends, flags(), total)


def none_counted() -> NDArray[np.int64]:
    """Counts of nothing, shape (BINS,)."""
    return np.zeros(BINS, np.int64)


def compared(folded: Folded, corpus: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each text from the corpus that it is a part of, in nats, shape (documents,)."""
    with np.errstate(divide="ignore"):
        logs = np.log(corpus / max(int(corpus.sum()), 1))
    out = np.zeros(len(folded.starts))
    divergences(folded.data, folded.starts, folded.ends, flags(), logs, out)
    return out


def limit(values: NDArray[np.float64], percentile: float) -> float:
    """The smallest value that so many per cent of all do not exceed; documents above it are rejected."""
    return float(np.percentile(values, percentile, method="higher")) if len(values) else 0.0
