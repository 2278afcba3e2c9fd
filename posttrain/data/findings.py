"""What the checks of a contract found: counts, examples, and whether the data set fails. Counted while rows stream by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from posttrain.data.contract import RowCheck, Severity, kind_of
from posttrain.statistics.auc import area_of_counts
from schemas.data import Checks

EXAMPLES: Final = 3
GOOD_AND_BAD: Final = (("chosen", "desirable"), ("rejected", "undesirable"))


@dataclass(frozen=True)
class Finding:
    """How one check went. `share` is of the rows read; `limit` is None where nothing fails a data set."""

    check: str
    severity: Severity
    count: int
    share: float
    limit: float | None = None
    failed: bool = False
    examples: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What a recipe calls the check."""
        return kind_of(self.check)

    def as_row(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"examples": list(self.examples)}


class Tallied:
    """How often each of several names came, and the first few places."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.words: dict[str, str] = {}
        """The first reason of a name in its own words."""
        self._places: dict[str, list[str]] = {}

    def add(self, name: str, places: Iterable[str], count: int = 1, words: str | None = None) -> None:
        """So many more, of which the first few places are given."""
        self.counts[name] += count
        self.words.setdefault(name, words or name)
        known = self._places.setdefault(name, [])
        known += list(places)[: EXAMPLES - len(known)]

    def places(self, name: str) -> tuple[str, ...]:
        """`file:row` of the first few."""
        return tuple(self._places.get(name, ()))

    def add_hits(self, hits: pl.DataFrame, rows: pl.DataFrame) -> None:
        """Rows, with `source` and `row`, that the checks of the columns hit."""
        for name in hits.columns:
            count = int(hits[name].sum())
            self.add(name, places_of(rows.filter(hits[name]), "source") if count else (), count)

    def merge(self, other: Tallied, names: Iterable[str]) -> None:
        """What another one counted under these names."""
        for name in names:
            if other.counts[name]:
                self.add(name, other.places(name), other.counts[name])

    def said(self, most: int = EXAMPLES) -> str:
        """The most frequent names in words, with their counts and an example of each."""
        found = [(name, count) for name, count in self.counts.most_common(most) if count]
        return "; ".join(
            f"{self.words[name]} ({count:,} row{'s' * (count != 1)}, such as {self.places(name)[0]})" for name, count in found
        )


def places_of(rows: pl.DataFrame, file: str) -> tuple[str, ...]:
    """`file:row` of the first few rows."""
    return tuple(rows.head(EXAMPLES).select(pl.format("{}:{}", file, "row")).to_series())


def finding(check: RowCheck, tally: Tallied, limits: Checks, rows_read: int) -> Finding:
    """How a check of rows went."""
    count = tally.counts[check.name]
    share = count / max(rows_read, 1)
    above = {str(name): value for name, value in limits.fail_above.items()}
    limit = above.get(check.kind, getattr(limits, check.limit) if check.limit else None)
    failed = limit is not None and share > limit and check.kind not in limits.waive
    return Finding(check.name, check.severity, count, share, limit, failed, tally.places(check.name))


class Lengths:
    """Characters of each side of the rows that are kept: how many rows have which length, and how the sides of a pair compare."""

    def __init__(self, sides: Sequence[str]) -> None:
        self.counts: dict[str, Counter[int]] = {side: Counter() for side in sides}
        """Rows by length, for each side."""
        self.rows = self.longer = self.tied = 0
        """Pairs; those whose chosen side is longer; those of equal lengths."""

    def add(self, lengths: pl.DataFrame) -> None:
        """Rows with the length of each side in a column of its name."""
        self.rows += lengths.height
        for side, counts in self.counts.items():
            counts.update(dict(lengths[side].drop_nulls().value_counts().iter_rows()))
        if "rejected" in self.counts:
            self.longer += int((lengths["chosen"] > lengths["rejected"]).sum())
            self.tied += int((lengths["chosen"] == lengths["rejected"]).sum())

    def findings(self, limits: Checks) -> list[Finding]:
        """What lengths say of a data set whose rows have a better and a worse side."""
        biased = [self.bias(limits)] if "rejected" in self.counts else []
        known = any(each.failed for each in biased)
        return [*biased, *filter(None, (self.told_apart(limits, known), self.one_label(limits)))]

    def bias(self, limits: Checks) -> Finding:
        """P(the chosen side is longer) in characters, a tie counting one half, so that equal lengths are no bias."""
        share = (self.longer + self.tied / 2) / self.rows if self.rows else 0.5
        if max(share, 1 - share) > limits.length_bias_fail and "length_bias" not in limits.waive:
            return Finding("length_bias", "fail", self.longer, share, limits.length_bias_fail, failed=True)
        return Finding("length_bias", "warn", self.longer, share, limits.length_bias_warn)

    def told_apart(self, limits: Checks, known: bool = False) -> Finding | None:
        """How well lengths alone tell good answers from bad ones: the area under the ROC curve; None where there are not both.

        `known`: the data set fails by its lengths already.
        """
        good, bad = (self.counts.get(names[0], self.counts.get(names[1])) for names in GOOD_AND_BAD)
        if not good or not bad:
            return None
        value = area_of_counts(good, bad)
        if max(value, 1 - value) > limits.length_bias_fail and "length_bias" not in limits.waive and not known:
            return Finding("length_auc", "fail", self.rows, value, limits.length_bias_fail, failed=True)
        return Finding("length_auc", "warn", self.rows, value, limits.length_bias_warn)

    def one_label(self, limits: Checks) -> Finding | None:
        """Feedback of which all answers that are kept have one label: there is nothing to tell apart."""
        if "desirable" not in self.counts or not self.rows:
            return None
        lacking = sum(not counts for counts in self.counts.values())
        failed = bool(lacking) and "one_label" not in limits.waive
        return Finding("one_label", "fail" if failed else "warn", lacking * self.rows, float(lacking), 0.0, failed)

    def histogram(self) -> dict[str, list[int]]:
        """Counts per side between `edges` (characters): 0, then doubling from 16 to above the longest."""
        longest = max((max(counts, default=0) for counts in self.counts.values()), default=0)
        edges = [0, *(2**power for power in range(4, max(longest.bit_length(), 4) + 1))]
        found = {"edges": edges}
        for side, counts in self.counts.items():
            lengths, weights = np.array([*counts], np.int64), np.array([*counts.values()], np.int64)
            found[side] = np.histogram(lengths, edges, weights=weights)[0].tolist()
        return found
