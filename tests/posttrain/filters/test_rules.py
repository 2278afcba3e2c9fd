"""The policy: every broken rule is a reason; None is off, 0 is a limit."""

from __future__ import annotations

import numpy as np
import polars as pl

from posttrain.filters.metrics import annotate
from posttrain.filters.rules import Told, arrays, broken, reasons
from schemas.filter_presets import PRESETS
from schemas.filter_rules import Bounds, FilterRules
from schemas.filtering import Filtering

METRICS = annotate(pl.Series(["one # two", "- the and", ""]))


def said(rules: FilterRules, metrics: pl.DataFrame = METRICS) -> pl.Series:
    return reasons(broken(arrays(metrics), rules), metrics.height)


def test_no_rule_no_reason() -> None:
    assert said(FilterRules()).to_list() == [[], [], []]
    assert said(PRESETS["none"]).dtype == pl.List(pl.String)


def test_zero_is_a_limit() -> None:
    """One `#` in three words is above 0; documents without `#` are not."""
    assert said(FilterRules(hash_per_word=Bounds(max=0))).to_list() == [["hash_per_word > 0"], [], []]
    assert said(FilterRules(words=Bounds(min=0))).to_list() == [[], [], []]


def test_limits_are_inclusive_on_both_sides() -> None:
    """The first two have three words, the last none."""
    assert said(FilterRules(words=Bounds(min=3, max=3))).to_list() == [[], [], ["words < 3"]]
    assert said(FilterRules(words=Bounds(max=2.5))).to_list() == [["words > 2.5"], ["words > 2.5"], []]


def test_every_reason_is_kept_in_the_order_of_the_rules() -> None:
    rules = FilterRules(words=Bounds(min=50), hash_per_word=Bounds(max=0.1), stop_words=Bounds(min=2))
    assert said(rules).to_list() == [
        ["words < 50", "hash_per_word > 0.1", "stop_words < 2"],
        ["words < 50"],
        ["words < 50", "stop_words < 2"],
    ]


def test_null_switches_a_rule_of_the_preset_off() -> None:
    """`- the and`: 3 words, mean length 7/3, a bullet on every line, 2/3 of the words with a letter. Only the last rule is on."""
    kept = Filtering(rules=FilterRules(words=None, bullet_line_share=None, mean_word_length=None)).resolved()
    assert said(kept).to_list()[1] == ["alphabetic_word_share < 0.8"]


def test_no_documents() -> None:
    assert said(PRESETS["gopher"], METRICS.clear()).to_list() == []


def test_a_reason_may_say_another_thing_of_each_document() -> None:
    told = [Told(np.array([True, False, True]), "a"), Told(np.array([True, True, False]), pl.Series(["x", "y", None]))]
    assert reasons(told, 3).to_list() == [["a", "x"], ["y"], ["a"]]
