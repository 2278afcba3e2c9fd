"""Every limit of every preset, on texts worked out by hand: just below it, at it, just above it."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from posttrain.filters.metrics import annotate
from posttrain.filters.rules import arrays, broken, reasons
from schemas.filter_presets import PRESETS
from schemas.filter_rules import FilterRules

Text = Callable[[int], str]
"""A text whose metric is below the limit for -1, at the limit for 0 and above it for 1."""


def lines(good: str, bad: str, count: int, of: int) -> str:
    """`count` bad lines among `of`."""
    return "\n".join([bad] * count + [good] * (of - count))


def letters(count: int, repeats: int, between: str) -> str:
    """`count` units, of which the last few repeat the first ones."""
    new = [chr(ord("a") + at) for at in range(count - repeats)]
    return between.join(new + new[:repeats])


def twice(run: str, characters: int) -> str:
    """A run of words at both ends of a text of so many characters; one long word between them."""
    return f"{run} {'x' * (characters - 2 * len(run) - 2)} {run}"


def run(words: int, characters: int) -> str:
    """Different words, one letter each but the last."""
    short = " ".join(chr(ord("a") + at) for at in range(words - 1))
    return f"{short} {'z' * (characters - len(short) - 1)}"


def repeated_run(words: int) -> Text:
    """The second of two equal runs covers a share of 0.15, 0.14, ... of 200 characters for 5, 6, ... words."""
    covered = 2 * (20 - words)
    return lambda step: twice(run(words, covered), 200 - step)


CASES: dict[tuple[str, str, str], Text] = {
    ("gopher", "words", "min"): lambda step: "word " * (50 + step),
    ("gopher", "words", "max"): lambda step: "word " * (100_000 + step),
    ("gopher", "mean_word_length", "min"): lambda step: "abc " * 9 + "abcd"[: 3 + step],
    ("gopher", "mean_word_length", "max"): lambda step: ("x" * 10 + " ") * 9 + "x" * (10 + step),
    ("gopher", "hash_per_word", "max"): lambda step: "# " + "w " * (9 - step),  # 1 in 10 words
    ("gopher", "ellipsis_per_word", "max"): lambda step: "w.... " + "w " * (9 - step),  # one run of stops in 10 words
    ("gopher", "bullet_line_share", "max"): lambda step: lines("a", "- a", 9 + step, 10),
    ("gopher", "ellipsis_line_share", "max"): lambda step: lines("a", "a…", 3 + step, 10),
    ("gopher", "alphabetic_word_share", "min"): lambda step: "é1 " * (8 + step) + "12 " * (2 - step),
    ("gopher", "stop_words", "min"): lambda step: " ".join(["The", "be", "TO"][: 2 + step]),
    ("gopher", "duplicate_line_share", "max"): lambda step: letters(10, 3 + step, "\n"),
    ("gopher", "duplicate_paragraph_share", "max"): lambda step: letters(10, 3 + step, "\n\n"),
    # 2 characters are in a repeated line or paragraph, of 10 in all.
    ("gopher", "duplicate_line_characters", "max"): lambda step: "ab\nab\n" + "c" * (4 - step),
    ("gopher", "duplicate_paragraph_characters", "max"): lambda step: "ab\n\nab\n\n" + "c" * (2 - step),
    ("gopher", "top_2gram_characters", "max"): lambda step: twice("a b", 30 - step),  # 2 x 3 of 30
    ("gopher", "top_3gram_characters", "max"): lambda step: twice("aaa b ccc", 100 - step),  # 2 x 9 of 100
    ("gopher", "top_4gram_characters", "max"): lambda step: twice("a b c dd", 100 - step),  # 2 x 8 of 100
    **{("gopher", f"duplicate_{n}gram_characters", "max"): repeated_run(n) for n in range(5, 11)},
    **{("llama3", f"duplicate_{n}gram_characters", "max"): repeated_run(n) for n in range(5, 11)},
    ("c4", "sentences", "min"): lambda step: "One more. " * (5 + step),
    ("c4", "curly_brackets", "max"): lambda step: "a" + "{" * step,
    ("c4", "lorem_ipsum", "max"): lambda step: "a " + "Lorem IPSUM " * step,
    ("fineweb-paper", "duplicate_line_characters", "max"): lambda step: "ab\nab\n" + "c" * (14 - step),  # 2 of 20
    ("fineweb-code", "duplicate_line_characters", "max"): lambda step: "ab\nab\n" + "c" * (194 - step),  # 2 of 200
    **{
        (preset, metric, side): text
        for preset in ("fineweb-paper", "fineweb-code")
        for metric, side, text in (
            ("punctuated_line_share", "min", lambda step: lines("a", "a.", 3 + step, 25)),
            ("short_line_share", "max", lambda step: lines("x" * 31, "x" * 30, 67 + step, 100)),
            ("newlines_per_word", "max", lambda step: "w\n" * (3 + step) + "w " * (7 - step)),
        )
    },
}
AT_ZERO = {"curly_brackets", "lorem_ipsum"}  # nothing is below


def sides() -> set[tuple[str, str, str]]:
    """Every limit there is."""
    return {
        (preset, metric, side)
        for preset, rules in PRESETS.items()
        for metric, bounds in rules
        for side in ("min", "max")
        if bounds is not None and getattr(bounds, side) is not None
    }


def test_every_limit_has_a_text() -> None:
    assert sides() == CASES.keys()


@pytest.mark.parametrize(("preset", "metric", "side"), CASES)
def test_a_limit_is_inclusive_and_its_neighbours_lie_on_either_side(preset: str, metric: str, side: str) -> None:
    bounds = getattr(PRESETS[preset], metric)
    limit = getattr(bounds, side)
    steps = (0, 1) if metric in AT_ZERO else (-1, 0, 1)
    found = annotate(pl.Series([CASES[preset, metric, side](step) for step in steps]))
    values = dict(zip(steps, found[metric], strict=True))
    assert values[0] == limit
    assert values.get(-1, float("-inf")) < limit < values[1]
    rejected = [len(each) for each in reasons(broken(arrays(found), FilterRules(**{metric: bounds})), found.height)]
    beyond = -1 if side == "min" else 1
    assert rejected == [int(step == beyond) for step in steps]
