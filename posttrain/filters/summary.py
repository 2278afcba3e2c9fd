"""Counts, reasons and histograms of a filter run, gathered batch by batch in constant memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl

from posttrain.filters.metrics import METRICS
from schemas.filter_rules import FilterRules

_SHARE = np.linspace(0, 1, 21)
# Fixed before the first document is read, so that one pass is enough. Values outside fall into the outermost bins.
EDGES: dict[str, np.ndarray] = dict.fromkeys(METRICS, _SHARE) | {
    "words": np.array([0, *(m * 10.0**e for e in range(6) for m in (1, 2, 5)), 1e6]),
    "mean_word_length": np.linspace(0, 20, 41),
    "stop_words": np.arange(10) - 0.5,
}


class Summary:
    """Running totals of a filter run."""

    def __init__(self, rules: FilterRules) -> None:
        self.rules = rules
        self.totals: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.counts = {name: np.zeros(len(EDGES[name]) - 1, dtype=np.int64) for name in METRICS}

    def add(self, kept: pl.DataFrame, rejected: pl.DataFrame, quarantined: int) -> None:
        """Count one decided batch."""
        train = int((kept["split"] == "train").sum())
        self.totals.update(
            kept=kept.height,
            rejected=rejected.height,
            quarantined=quarantined,
            train=train,
            holdout=kept.height - train,
            kept_characters=int(kept["text"].str.len_chars().sum()),
        )
        self.reasons.update(rejected["reasons"].explode(empty_as_null=False).to_list())
        for name, edges in EDGES.items():
            for part in (kept, rejected):
                self.counts[name] += np.histogram(part[name].to_numpy().clip(edges[0], edges[-1]), edges)[0]

    def document(self, documents_in: int) -> dict[str, Any]:
        """The content of summary.json; the most frequent reasons come first."""
        return {
            "documents_in": documents_in,
            **{name: self.totals[name] for name in ("kept", "rejected", "quarantined", "train", "holdout", "kept_characters")},
            "reasons": dict(self.reasons.most_common()),
            "metrics": {name: self._histogram(name) for name in METRICS},
        }

    def _histogram(self, name: str) -> dict[str, Any]:
        bounds = getattr(self.rules, name)
        return {
            "edges": EDGES[name].tolist(),
            "counts": self.counts[name].tolist(),
            "min": bounds.min if bounds else None,
            "max": bounds.max if bounds else None,
        }
