"""The lines that datatrove's C4 filter takes out, and what it counts in the others."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from posttrain.filters.datatrove.words import words
from posttrain.filters.kernels.lines import JAVASCRIPT, POLICIES, REASONS
from schemas.filter_rules import LineRules

CITATION: Final = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
ENDS: Final = (".", "?", "!", '"', "'")
ELLIPSIS: Final = "..."
LOREM: Final = "lorem ipsum"


class Cleaned(NamedTuple):
    """A document after its lines were looked at."""

    text: str
    dropped: list[int]
    """Lines taken out, by reason."""
    lorem_ipsum: int
    """Lines that say so, of those that got so far; likewise below."""
    curly_brackets: int
    sentences: int


def cleaned(text: str, rules: LineRules) -> Cleaned:
    """What the C4 filter makes of a document. Its rules ask one after the other: a line that is dropped has no bracket."""
    kept, dropped, lorem, curly, sentences = [], dict.fromkeys(REASONS, 0), 0, 0, 0
    for raw in text.splitlines():
        stripped = raw.strip()
        line, runs = CITATION.sub("", stripped), stripped.split()
        reason = _by_form(line, runs, rules)
        if reason is None:
            said = line.lower()
            lorem += LOREM in said
            if rules.drop_javascript and JAVASCRIPT in said:
                reason = "drop_javascript"
            else:
                curly += "{" in line
                reason = "drop_policy" if rules.drop_policy and any(phrase in said for phrase in POLICIES) else None
        if reason is None:
            kept.append(line)
            sentences += words().sentences(line)
        elif runs:
            dropped[reason] += 1
    return Cleaned("\n".join(kept).strip(), list(dropped.values()), lorem, curly, sentences)


def _by_form(line: str, runs: list[str], rules: LineRules) -> str | None:
    if rules.max_word_length is not None and any(len(run) > rules.max_word_length for run in runs):
        return "max_word_length"
    if rules.drop_unpunctuated and not line.endswith(ENDS):
        return "drop_unpunctuated"
    if (rules.drop_unpunctuated or rules.drop_ellipsis) and line.endswith(ELLIPSIS):
        return "drop_ellipsis"
    return "min_words" if len(runs) < (rules.min_words or 0) else None
