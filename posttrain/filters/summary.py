"""Counts, reasons and histograms of a filter run, gathered batch by batch in constant memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from posttrain.filters.kernels.bins import count_between
from posttrain.filters.metrics import METRICS
from posttrain.filters.mixture import Sampler
from posttrain.runtime.writing import write_atomically
from schemas.errors import Refusal
from schemas.filter_rules import LineRules
from schemas.filtering import Filtering

LINE_RULES = tuple(LineRules.model_fields)
_SHARE = np.linspace(0, 1, 21)
# Fixed before the first document is read, so that one pass is enough. Values outside fall into the outermost bins.
EDGES: dict[str, np.ndarray] = dict.fromkeys(METRICS, _SHARE) | {
    "words": np.array([0, *(m * 10.0**e for e in range(6) for m in (1, 2, 5)), 1e6]),
    "mean_word_length": np.linspace(0, 20, 41),
    "stop_words": np.arange(10) - 0.5,
    "sentences": np.array([0, *(m * 10.0**e for e in range(5) for m in (1, 2, 5)), 1e5]),
    "curly_brackets": np.array([0, *(m * 10.0**e for e in range(5) for m in (1, 2, 5)), 1e5]),
    "lorem_ipsum": np.arange(11) - 0.5,
}


class Summary:
    """Running totals of a filter run."""

    def __init__(self, filtering: Filtering) -> None:
        self.filtering, self.rules = filtering, filtering.resolved()
        self.totals: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.contaminated: Counter[str] = Counter()
        self.placeholders = 0
        self.sampler: Sampler | None = None
        self.counts = {name: np.zeros(len(EDGES[name]) - 1, dtype=np.int64) for name in METRICS}

    def add(self, kept: pl.DataFrame, rejected: pl.DataFrame, characters: int = 0) -> None:
        """Count one decided batch, splits where it has them, and the characters of what is kept."""
        self.totals.update(kept=kept.height, rejected=rejected.height)
        if "split" in kept.columns:
            train = int((kept["split"] == "train").sum())
            self.totals.update(train=train, holdout=kept.height - train, kept_characters=characters)
        reasons = rejected.select(pl.col("reasons").explode(empty_as_null=False)).group_by("reasons", maintain_order=True).len()
        self.reasons.update(dict(reasons.iter_rows()))
        for part in (kept, rejected):
            self.placeholders += int(part["personal_data"].sum())
            self.contaminated.update(name.rpartition(":")[0] for name in part["contaminated_by"].drop_nulls())
        for name, edges in EDGES.items():
            values = np.concatenate([part[name].to_numpy() for part in (kept, rejected)])
            count_between(values, edges, self.counts[name])

    def document(self, read: Mapping[str, int]) -> dict[str, Any]:
        """The content of summary.json; the most frequent reasons come first.

        Args:
            read: `documents`, `quarantined`, and the lines that each rule for lines took out.
        """
        counts = {"kept": self.totals["kept"], "rejected": self.totals["rejected"], "quarantined": read["quarantined"]}
        dropped = {name: count for name, count in read.items() if name in LINE_RULES and count}
        return {
            "documents_in": read["documents"] + read["quarantined"],
            **counts,
            **{name: self.totals[name] for name in ("train", "holdout", "kept_characters")},
            "reasons": dict(self.reasons.most_common()),
            "lines_dropped": dropped,
            "placeholders": self.placeholders,
            "contaminated": dict(sorted(self.contaminated.items())),
            "mixture": self.sampler.report() if self.sampler else {},
            "filtering": self.filtering.document(),
            "metrics": {name: self._histogram(name) for name in METRICS},
        }

    def finish(self, read: Mapping[str, int], path: Path) -> dict[str, float]:
        """Assert that the rows balance, write summary.json, refuse an empty result; returns the flat metrics of the stage."""
        document = self.document(read)
        decided = document["kept"] + document["rejected"]
        if decided != read["documents"]:
            raise AssertionError(f"{read['documents']} documents in, {decided} out")
        if document["kept"] == 0:
            raise _nothing_kept(document)
        write_atomically(path, json.dumps(document, indent=1))
        names = ("kept", "rejected", "quarantined", "train", "holdout")
        decisions = {f"documents_{name}": float(document[name]) for name in names}
        return {
            "documents_in": float(document["documents_in"]), **decisions, "kept_characters": float(document["kept_characters"])
        }  # fmt: skip

    def _histogram(self, name: str) -> dict[str, Any]:
        bounds = getattr(self.rules, name)
        return {
            "edges": EDGES[name].tolist(),
            "counts": self.counts[name].tolist(),
            "min": bounds.min if bounds else None,
            "max": bounds.max if bounds else None,
        }


def _nothing_kept(document: dict[str, Any]) -> Refusal:
    frequent = ", ".join(f"{reason} ({count})" for reason, count in islice(document["reasons"].items(), 3))
    counts = f"{document['documents_in']} documents, none kept, {document['quarantined']} quarantined"
    return Refusal(
        where="data.corpus",
        found=f"{counts}; most frequent reasons: {frequent or 'none'}",
        allowed="at least one document that passes",
        remedy="loosen filtering.rules, or give other data",
    )
