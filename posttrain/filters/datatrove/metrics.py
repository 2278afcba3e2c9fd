"""The columns of `posttrain.filters.metrics` as datatrove's Gopher, FineWeb and C4 filters count them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.filters.datatrove.characters import PUNCTUATION, TERMINAL
from posttrain.filters.datatrove.lines import LOREM, cleaned
from posttrain.filters.datatrove.words import words
from posttrain.filters.kernels.document import SHORT, STOP_WORDS
from posttrain.filters.kernels.lines import REASONS
from posttrain.filters.metrics import METRICS
from posttrain.text.buffers import Buffers, buffers
from schemas.filter_rules import LineRules

_PARAGRAPH, _LINE = re.compile(r"\n{2,}"), re.compile(r"\n+")
_BULLETS, _ELLIPSES, _STOP = ("•", "-"), ("...", "…"), frozenset(STOP_WORDS)
FINEWEB: Final = "fineweb"  # presets of it count repeated lines in their own way


def described(texts: Buffers, rules: LineRules, preset: str) -> tuple[Buffers, NDArray[np.int64], NDArray[np.float64]]:
    """The documents as the C4 filter leaves them, lines that it took out by reason, and metrics of what is left.

    Returns:
        The last two of shapes (documents, len(REASONS)) and (documents, len(METRICS)).
    """
    dropped = np.zeros((texts.documents, len(REASONS)), np.int64)
    metrics, left = np.zeros((texts.documents, len(METRICS))), []
    for at in range(texts.documents):
        text = texts.text(at)
        found = {"curly_brackets": text.count("{"), "lorem_ipsum": text.lower().count(LOREM)}
        if rules == LineRules():
            found["sentences"] = words().sentences(text)
        else:
            page = cleaned(text, rules)
            text, dropped[at] = page.text, page.dropped
            found = {name: getattr(page, name) for name in ("curly_brackets", "lorem_ipsum", "sentences")}
        left.append(text)
        values = measured(text, preset) | found
        metrics[at] = [values[name] for name in METRICS]
    kept = buffers(pa.array(left, pa.large_string())) if rules != LineRules() else texts
    return kept, dropped, metrics


def measured(text: str, preset: str) -> dict[str, float]:
    """All metrics of a document but those that its lines tell (`lines.py`)."""
    parts = words().of(text)
    return {**_quality(text, parts), **_repetition(text, parts), **_fineweb(text, parts, preset)}


def _quality(text: str, parts: Sequence[str]) -> dict[str, float]:
    """The Gopher quality filter. Words of punctuation alone count in all shares, but not among the words."""
    real = [len(part) for part in parts if not PUNCTUATION.issuperset(part)]
    lines, count = text.splitlines(), max(len(parts), 1)
    of = max(len(lines), 1)
    return {
        "words": len(real),
        "mean_word_length": sum(real) / max(len(real), 1),
        "hash_per_word": text.count("#") / count,
        "ellipsis_per_word": sum(map(text.count, _ELLIPSES)) / count,
        "bullet_line_share": sum(line.lstrip().startswith(_BULLETS) for line in lines) / of,
        "ellipsis_line_share": sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / of,
        "alphabetic_word_share": sum(any(map(str.isalpha, part)) for part in parts) / count,
        "stop_words": len(_STOP.intersection(parts)),
    }


def _repetition(text: str, parts: Sequence[str]) -> dict[str, float]:
    """The Gopher repetition filter."""
    of, found = max(len(text), 1), {}
    for unit, units in (("paragraph", _PARAGRAPH.split(text.strip())), ("line", _LINE.split(text))):
        repeats = repeated(units)
        found[f"duplicate_{unit}_share"] = len(repeats) / len(units)
        found[f"duplicate_{unit}_characters"] = sum(map(len, repeats)) / of
    found |= {f"top_{length}gram_characters": _top(parts, length) / of for length in (2, 3, 4)}
    return found | {f"duplicate_{length}gram_characters": greedy(parts, length) / of for length in range(5, 11)}


def _fineweb(text: str, parts: Sequence[str], preset: str) -> dict[str, float]:
    lines = [line for line in text.split("\n") if line.strip()]
    of = max(len(lines), 1)
    found = {
        "punctuated_line_share": sum(line.endswith(TERMINAL) for line in lines) / of,
        "short_line_share": sum(len(line) <= SHORT for line in lines) / of,
        "newlines_per_word": text.count("\n") / max(len(parts), 1),
    }
    if preset.startswith(FINEWEB):
        found["duplicate_line_characters"] = sum(map(len, repeated(lines))) / max(len(text) - text.count("\n"), 1)
    return found


def repeated(units: Sequence[str]) -> list[str]:
    """Those that occurred before."""
    seen: set[str] = set()
    return [unit for unit in units if unit in seen or seen.add(unit)]  # type: ignore[func-returns-value]


def _top(parts: Sequence[str], length: int) -> int:
    """Characters of the most frequent run, its blanks included, as often as it occurs, even once; overlaps count again."""
    runs = Counter(zip(*(parts[at:] for at in range(length)), strict=False))
    if not runs:
        return 0
    ((run, times),) = runs.most_common(1)
    return (sum(map(len, run)) + length - 1) * times


def greedy(parts: Sequence[str], length: int) -> int:
    """Characters of the words of runs that occurred before; behind one of these the search goes on, so that none overlap."""
    seen: set[tuple[str, ...]] = set()
    total, at = 0, 0
    while at <= len(parts) - length:
        run = tuple(parts[at : at + length])
        if run in seen:
            total += sum(map(len, run))
            at += length
        else:
            seen.add(run)
            at += 1
    return total
