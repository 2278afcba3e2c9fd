"""The metrics of one document in plain Python: what the kernels compute, a hundred times slower.

Used where numba cannot compile, and by the tests, which compare the two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase

from posttrain.filters.kernels.document import SHORT, STOP_WORDS
from posttrain.filters.kernels.lines import JAVASCRIPT, POLICIES, REASONS
from posttrain.text.kernels.characters import BULLETS, CLOSERS, QUOTES, SPACES, STOPS, WIDE_STOPS

_SPACE = f"[{SPACES}]"
_ENDS, _CLOSERS = "".join(set(STOPS) - set(WIDE_STOPS)), re.escape("".join(set(CLOSERS + STOPS) - set(WIDE_STOPS)))
_SENTENCE_END = re.compile(rf"[{_ENDS}][{_CLOSERS}]*(?={_SPACE}|\Z)|[{WIDE_STOPS}]")
_TOKEN = re.compile(r"\w+")
_BULLET = re.compile(rf"[{BULLETS}]|[-*]{_SPACE}")
_ELLIPSIS = re.compile(r"\.{3,}|…")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # `lower` would change letters that are no Latin ones too

Span = tuple[int, int]


def measure(text: str) -> dict[str, float]:
    """The metrics of a document by name."""
    lines = [line for line in (line.strip(SPACES) for line in text.split("\n")) if line]
    paragraphs = [block for block in (b.strip(SPACES) for b in re.split(rf"\n{_SPACE}*\n", text)) if block]
    words = [match.span() for match in re.finditer(f"[^{SPACES}]+", text)]
    return {
        **_word_metrics(text, [text[start:end] for start, end in words]),
        **_line_metrics(lines),
        **_repeats("line", lines, len(text)),
        **_repeats("paragraph", paragraphs, len(text)),
        **{f"top_{n}gram_characters": _share(most_frequent_run(text, words, n), text) for n in (2, 3, 4)},
        **{f"duplicate_{n}gram_characters": _share(repeated_runs(text, words, n), text) for n in range(5, 11)},
    }


def _word_metrics(text: str, words: list[str]) -> dict[str, float]:
    count = max(len(words), 1)
    tokens = set(_tokens(text.translate(_LOWER)))
    return {
        "words": len(words),
        "mean_word_length": sum(map(len, words)) / count,
        "alphabetic_word_share": sum(any(map(str.isalpha, word)) for word in words) / count,
        "hash_per_word": text.count("#") / count,
        "ellipsis_per_word": len(_ELLIPSIS.findall(text)) / count,
        "newlines_per_word": text.count("\n") / count if words else 0.0,
        "curly_brackets": text.count("{"),
        "lorem_ipsum": len(re.findall(r"(?<!\w)lorem ipsum", text.translate(_LOWER))),
        "stop_words": len(tokens & set(STOP_WORDS)),
        "sentences": sum(any(True for _ in _tokens(piece)) for piece in _SENTENCE_END.split(text)),
    }


def _tokens(text: str) -> list[str]:
    """Runs of letters, digits and `_`. Python's `\\w` has no combining marks either."""
    return _TOKEN.findall(text)


def _line_metrics(lines: list[str]) -> dict[str, float]:
    count = max(len(lines), 1)
    return {
        "bullet_line_share": sum(bool(_BULLET.match(line)) for line in lines) / count,
        "ellipsis_line_share": sum(line.endswith(("...", "…")) for line in lines) / count,
        "punctuated_line_share": sum(line[-1] in STOPS + QUOTES for line in lines) / count,
        "short_line_share": sum(len(line) <= SHORT for line in lines) / count,
    }


def _repeats(unit: str, units: list[str], characters: int) -> dict[str, float]:
    """Every unit after the first of its kind repeats it."""
    seen: set[str] = set()
    repeats = [each for each in units if each in seen or seen.add(each)]  # type: ignore[func-returns-value]
    return {
        f"duplicate_{unit}_share": len(repeats) / max(len(units), 1),
        f"duplicate_{unit}_characters": sum(map(len, repeats)) / max(characters, 1),
    }


def most_frequent_run(text: str, words: Sequence[Span], length: int) -> list[Span]:
    """Where the most frequent run of words stands; of equally frequent ones the first; nowhere if none occurs twice."""
    runs = _runs(text, words, length)
    ((run, times),) = Counter(run for run, _ in runs).most_common(1) or [((), 0)]
    return [span for other, span in runs if other == run and times > 1]


def repeated_runs(text: str, words: Sequence[Span], length: int) -> list[Span]:
    """Where runs of words stand that occurred before."""
    seen: set[tuple[str, ...]] = set()
    return [span for run, span in _runs(text, words, length) if run in seen or seen.add(run)]  # type: ignore[func-returns-value]


def _runs(text: str, words: Sequence[Span], length: int) -> list[tuple[tuple[str, ...], Span]]:
    windows = [words[at : at + length] for at in range(len(words) - length + 1)]
    return [(tuple(text[start:end] for start, end in each), (each[0][0], each[-1][1])) for each in windows]


def _share(spans: Sequence[Span], text: str) -> float:
    """Share of the characters that lie in at least one span."""
    return len({at for start, end in spans for at in range(start, end)}) / max(len(text), 1)


def drop_lines(text: str, limits: Sequence[int]) -> tuple[str, list[int]]:
    """A document without the lines that a rule takes out, and how many each rule did; see `kernels.lines`."""
    kept, dropped = [], [0] * len(REASONS)
    for line in text.split("\n"):
        why = _why_dropped(line, limits)
        if why is None:
            kept.append(line)
        else:
            dropped[why] += 1
    while kept and not kept[0]:  # no line break before the first character
        del kept[0]
    return "\n".join(kept) if any(dropped) else text, dropped


def _why_dropped(line: str, limits: Sequence[int]) -> int | None:
    words, said = re.findall(f"[^{SPACES}]+", line), line.translate(_LOWER)
    fails = [
        len(words) < limits[0],
        max(map(len, words), default=0) > limits[1],
        limits[2] and words and words[-1][-1] not in STOPS + QUOTES,
        limits[3] and words and words[-1].endswith(("...", "…")),
        limits[4] and JAVASCRIPT in said,
        limits[5] and any(phrase in said for phrase in POLICIES),
    ]
    return next((which for which, fail in enumerate(fails) if fail), None) if words else None
