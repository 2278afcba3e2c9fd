"""Which definitions describe a document: ours (`metrics`), or datatrove's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.filters.metrics import measured, without_lines
from posttrain.text.buffers import Buffers
from schemas.filtering import Filtering

Described = tuple[Buffers, NDArray[np.int64], NDArray[np.float64]]
"""Documents without the lines that a rule takes out, such lines by document and rule, and metrics by document and METRICS."""


def described(texts: Buffers, filtering: Filtering) -> Described:
    """The documents as the rules see them."""
    rules = filtering.resolved_lines().of_one_document()
    if filtering.variant == "datatrove":
        return _peer().described(texts, rules, filtering.preset)  # type: ignore[no-any-return]
    left, dropped = without_lines(texts, rules)
    return left, dropped, measured(left)


def changed(texts: Buffers, left: Buffers) -> NDArray[np.bool_]:
    """Which documents are no longer what they were."""
    if left is texts:
        return np.zeros(texts.documents, bool)
    other: NDArray[np.bool_] = np.diff(left.offsets) != np.diff(texts.offsets)
    return other


def _peer() -> Any:
    from posttrain.filters.datatrove import metrics  # late: it needs an extra

    return metrics
