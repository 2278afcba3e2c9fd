"""Shares of languages or sources among the tokens that are kept, and of an annealing tail.

Documents of a group are taken in the order of their fingerprints until its tokens are reached. A fingerprint depends on the text
alone, so neither the cut of the files nor their order matters. Tokens are added up by 65,536 ranges of fingerprints: memory does
not grow with the corpus, and a group is met to within one range.
"""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.text.copies import together
from schemas.errors import Refusal
from schemas.filter_scores import Mixture

RANGES: Final = 1 << 16
MAIN, ANNEAL, SURPLUS = "main", "anneal", "mixture"
"""Phases of pretraining, and the reason against what is beyond the shares."""


class Sampler:
    """Told of all documents that pass, decides which of them the mixture has room for."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._tokens: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(RANGES, np.int64))
        self._ends: dict[str, tuple[int, int]] = {}

    def add(self, documents: pl.DataFrame) -> None:
        """Count documents that pass everything else: language or source, fingerprint, tokens."""
        ranges, tokens = _ranges(documents), documents["tokens"].to_numpy()
        groups = np.array(self._groups(documents), object)
        for group in set(groups.tolist()) - {None}:
            some = groups == group
            np.add.at(self._tokens[group], ranges[some], tokens[some])

    def settle(self) -> None:
        """Say which ranges of each group are kept, once all documents are counted.

        Raises:
            Refusal: when a group that shall have a share has no document.
        """
        main = self._mixture.shares
        tail, part = (self._mixture.tail.shares, self._mixture.tail.share) if self._mixture.tail else ({}, 0.0)
        wanted = {g: (part * tail.get(g, 0.0), (1 - part) * main.get(g, 0.0)) for g in sorted({*main, *tail})}
        there = {group: int(self._tokens[group].sum()) for group in wanted}
        for group, shares in wanted.items():
            if sum(shares) > 0 and not there[group]:
                raise _nothing(group, self._mixture.by, there)
        total = min(there[group] / sum(shares) for group, shares in wanted.items() if sum(shares) > 0)
        for group, (last, first) in wanted.items():
            sums = np.cumsum(self._tokens[group])
            end = int(np.searchsorted(sums, round(total * last), side="right")) if last else 0
            upto = int(np.searchsorted(sums, round(total * (last + first)), side="right"))
            self._ends[group] = (end, max(end, upto))

    def phases(self, documents: pl.DataFrame) -> pl.Series:
        """MAIN or ANNEAL for each document that is kept, null for one that there is no room for."""
        ranges = _ranges(documents).tolist()
        ends = [self._ends.get(group, (0, 0)) if group else (0, 0) for group in self._groups(documents)]
        found = [ANNEAL if at < tail else MAIN if at < upto else None for at, (tail, upto) in zip(ranges, ends, strict=True)]
        return pl.Series("phase", found, dtype=pl.String)

    def report(self) -> dict[str, dict[str, int]]:
        """Tokens of each group: those there were, those kept, and those of the tail."""
        return {
            group: {
                "tokens_there": int(own.sum()),
                "tokens_kept": int(own[: self._ends.get(group, (0, 0))[1]].sum()),
                "tokens_anneal": int(own[: self._ends.get(group, (0, 0))[0]].sum()),
            }
            for group, own in sorted(self._tokens.items())
        }

    def _groups(self, documents: pl.DataFrame) -> list[str | None]:
        """The group of each document; of several patterns the first in the order of the alphabet."""
        shares = {*self._mixture.shares, *(self._mixture.tail.shares if self._mixture.tail else ())}
        names, rest = sorted(shares - {"*"}), "*" if "*" in shares else None
        values: list[Any] = documents[self._mixture.by].to_list()
        known = {value: next((n for n in names if fnmatchcase(str(value), n)), rest) for value in set(values)}
        return [known[value] for value in values]


def _ranges(documents: pl.DataFrame) -> NDArray[np.int64]:
    """The last 16 bits of each fingerprint."""
    prints = together(documents["fingerprint"])
    return np.frombuffer(prints, ">u2").reshape(-1, 8)[:, 7].astype(np.int64)


def _nothing(group: str, by: str, there: dict[str, int]) -> Refusal:
    found = ", ".join(f"{name} {tokens:,}" for name, tokens in there.items() if tokens) or "none"
    return Refusal(
        where="filtering.mixture.shares",
        found=f"a share for {group}, of which no document is kept; tokens there are: {found}",
        allowed=f"a {by} of kept documents" if by == "language" else "a pattern of names of files, as *.jsonl or web/*",
        remedy="take the group out, or give documents of it",
    )
