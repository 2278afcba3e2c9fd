"""Rules for lines, one by one, on texts short enough to read."""

from __future__ import annotations

import pyarrow as pa
import pytest

from posttrain.filters import plain
from posttrain.filters.kernels.lines import REASONS
from posttrain.filters.metrics import line_limits, without_lines
from posttrain.text.buffers import buffers
from schemas.filter_presets import LINE_PRESETS
from schemas.filter_rules import LineRules


def dropped(text: str, rules: LineRules) -> tuple[str, dict[str, int]]:
    """The text that is left and the lines that each rule took, alike from the kernel and from plain Python."""
    kept, counts = without_lines(buffers(pa.array([text], pa.large_string())), rules)
    found = kept.text(0), counts[0].tolist()
    if rules != LineRules():
        assert plain.drop_lines(text, line_limits(rules)) == found
    return found[0], {name: count for name, count in zip(REASONS, found[1], strict=True) if count}


@pytest.mark.parametrize(
    ("rules", "stays", "goes"),
    [
        ({"min_words": 3}, "one two three", "one two"),
        ({"max_word_length": 4}, "four éèêë", "a fifth"),
        ({"drop_unpunctuated": True}, 'said "yes"', "a heading"),
        ({"drop_ellipsis": True}, "the end..", "read more..."),
        ({"drop_ellipsis": True}, "… so it began", "more…"),
        ({"drop_javascript": True}, "java script", "Enable JAVASCRIPT now"),
        ({"drop_policy": True}, "a policy of privacy", "our Privacy Policy"),
        ({"drop_policy": True}, "she eats cookies", "This site uses cookies."),
    ],
)
def test_a_rule_takes_its_lines_and_no_others(rules: dict[str, object], stays: str, goes: str) -> None:
    (name,) = rules
    assert dropped(f"{stays}\n{goes}\n\n{stays}", LineRules(**rules)) == (f"{stays}\n\n{stays}", {name: 1})


def test_a_text_without_such_lines_stays_as_it_is() -> None:
    text = "\n\n  one two three\t\n\n\nfour five six\n"
    assert dropped(text, LineRules(min_words=3)) == (text, {})
    assert dropped(text, LineRules()) == (text, {})


def test_a_line_counts_for_the_first_rule_that_takes_it() -> None:
    rules = LINE_PRESETS["c4"]
    text = "Use cookies...\nPlease enable javascript to read this...\nThis line is about our cookie policy.\nThis one stays."
    assert dropped(text, rules) == ("This one stays.", {"min_words": 1, "drop_ellipsis": 1, "drop_policy": 1})


def test_nothing_may_be_left() -> None:
    assert dropped("a\n\nb", LineRules(min_words=2)) == ("", {"min_words": 2})
