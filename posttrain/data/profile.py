"""What a run's data are like, in shares that fit into a tag, and how far those of two runs are apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from posttrain.data.choose import PARTS, representative, row_sources
from posttrain.text import language

Shares = dict[str, float]
ROWS = 2000  # of each table, whose texts are looked at
NAMED = 25  # sources and languages that a profile names; the rest is OTHERS
OTHERS = "(others)"


def profile(tables: Iterable[pl.DataFrame]) -> dict[str, Shares]:
    """Shares of the rows by `sources`, by `lengths` in words (powers of two), and by `languages` where these can be told.

    Of a large table a part is looked at that stands for it; sources are counted in whole.
    """
    given = list(tables)
    texts = [_text(row) for table in given for row in representative(table, ROWS).to_dicts()]
    told = {
        "sources": _shares(source for table in given for source in row_sources(table)),
        "lengths": _shares(str(2 ** int(math.log2(max(len(text.split()), 1)))) for text in texts),
    }
    if language.is_installed():
        told["languages"] = _shares(language.identify_all(texts)[0])
    return told


def drift(ours: Mapping[str, Shares], theirs: Mapping[str, Shares]) -> dict[str, float]:
    """By aspect that both tell the total variation distance: the share of rows that would have to change, from 0 to 1."""
    return {
        f"drift_{aspect}": sum(abs(mine.get(name, 0) - theirs[aspect].get(name, 0)) for name in {*mine, *theirs[aspect]}) / 2
        for aspect, mine in ours.items()
        if aspect in theirs
    }


def _shares(values: Iterable[str]) -> Shares:
    counts = Counter(values)
    total = counts.total()
    named = dict(counts.most_common(NAMED))
    rest = total - sum(named.values())
    return {name[:100]: round(count / total, 6) for name, count in (named | ({OTHERS: rest} if rest else {})).items()}


def _text(row: Mapping[str, Any]) -> str:
    """All texts of a row, of a pair both answers."""
    return " ".join(_said(row[part]) for part in PARTS if row.get(part))


def _said(part: str | Sequence[Mapping[str, Any]]) -> str:
    return part if isinstance(part, str) else " ".join(str(message.get("content") or "") for message in part)
