"""How findings are counted: places, words, shares and what lengths say, on counts that are worked out by hand."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from posttrain.data.contract import RowCheck
from posttrain.data.findings import Finding, Lengths, Tallied, finding
from schemas.data import Checks


def feedback(desirable: dict[int, int], undesirable: dict[int, int]) -> Lengths:
    """Lengths of answers with a label, from how many have which."""
    found = Lengths(["desirable", "undesirable"])
    found.counts = {"desirable": Counter(desirable), "undesirable": Counter(undesirable)}
    found.rows = sum(desirable.values()) + sum(undesirable.values())
    return found


def test_three_places_of_a_name_are_kept_and_its_first_words():
    tally = Tallied()
    tally.add("torn", ["a:1", "a:2"], 2, "the line is torn")
    tally.add("torn", ["b:1", "b:2"], 5, "in other words")
    tally.add("odd", ["c:1"])
    tally.add("never", [], 0)
    assert tally.places("torn") == ("a:1", "a:2", "b:1")
    assert tally.places("unheard") == ()
    assert tally.said() == "the line is torn (7 rows, such as a:1); odd (1 row, such as c:1)"
    assert tally.said(1) == "the line is torn (7 rows, such as a:1)"


def test_three_names_are_said():
    tally = Tallied()
    for count, name in enumerate(("least", "third", "second", "first"), 1):
        tally.add(name, [f"f:{count}"], count)
    assert tally.said() == "first (4 rows, such as f:4); second (3 rows, such as f:3); third (2 rows, such as f:2)"


def test_hits_are_counted_with_the_first_three_rows_and_merged_by_name():
    rows = pl.DataFrame({"source": ["f"] * 6, "row": [1, 2, 3, 4, 5, 6]})
    hits = pl.DataFrame({"one": [False, True, True, True, False, True], "none": [False] * 6, "last": [False] * 5 + [True]})
    tally, other = Tallied(), Tallied()
    tally.add_hits(hits, rows)
    assert (dict(tally.counts), tally.places("one")) == ({"one": 4, "none": 0, "last": 1}, ("f:2", "f:3", "f:4"))
    other.merge(tally, ["one", "none"])
    assert (dict(other.counts), other.places("one")) == ({"one": 4}, ("f:2", "f:3", "f:4"))


def test_a_check_of_no_rows_has_a_share_of_zero_and_one_without_a_limit_never_fails():
    tally, check = Tallied(), RowCheck("marker_chosen", "warn")
    assert finding(check, tally, Checks(), 0) == Finding("marker_chosen", "warn", 0, 0.0)
    tally.add("marker_chosen", ["f:1"])
    assert finding(check, tally, Checks(), 1) == Finding("marker_chosen", "warn", 1, 1.0, examples=("f:1",))
    limits = Checks.model_validate({"fail_above": {"marker": 0.5}})
    assert finding(check, tally, limits, 2) == Finding("marker_chosen", "warn", 1, 0.5, 0.5, False, ("f:1",))
    assert finding(check, tally, limits, 1).failed
    assert not finding(check, tally, limits.model_copy(update={"waive": {"marker": "seen"}}), 1).failed


def test_a_finding_is_a_row_of_json_and_is_called_what_recipes_call_its_check():
    found = Finding("marker_chosen", "warn", 1, 0.5, examples=("f:1",))
    assert found.as_row() == {
        "check": "marker_chosen", "severity": "warn", "count": 1, "share": 0.5, "limit": None, "failed": False,
        "examples": ["f:1"],
    }  # fmt: skip
    assert (found.kind, Finding("length_auc", "warn", 0, 0.0).kind) == ("marker", "length_bias")


@pytest.mark.parametrize(
    ("longer", "shorter", "value", "failed"), [(17, 3, 0.85, False), (3, 17, 0.15, False), (18, 2, 0.9, True), (2, 18, 0.1, True)]
)
def test_lengths_tell_answers_apart_above_the_limit(longer, shorter, value, failed):
    """Of 20 good answers so many are longer than the one bad answer: this is the area under the curve. The limit is 0.85."""
    lengths = feedback({3: longer, 1: shorter}, {2: 1})
    found = lengths.told_apart(Checks())
    assert found.share == pytest.approx(value)
    expected = ("fail", 0.85, True) if failed else ("warn", 0.65, False)
    assert (found.severity, found.limit, found.failed, found.count) == (*expected, 21)
    assert lengths.findings(Checks())[0] == found
    for excused in (lengths.told_apart(Checks(), known=True), lengths.told_apart(Checks(waive={"length_bias": "seen"}))):
        assert (excused.severity, excused.limit, excused.failed) == ("warn", 0.65, False)


def test_a_data_set_that_fails_by_its_lengths_fails_once():
    """All 4 chosen answers are longer than all rejected ones: both numbers are 1."""
    lengths = Lengths(["chosen", "rejected"])
    lengths.add(pl.DataFrame({"chosen": [9, 8, 7, 6], "rejected": [1, 2, 3, 4]}, schema_overrides={"chosen": pl.UInt32}))
    assert [(each.check, each.share, each.failed) for each in lengths.findings(Checks())] == [
        ("length_bias", 1.0, True), ("length_auc", 1.0, False)
    ]  # fmt: skip


def test_ties_count_one_half_over_all_pieces():
    """Of 8 pairs 3 have the longer answer chosen and 2 are tied: 4 of 8. Without any pair there is no bias."""
    lengths = Lengths(["chosen", "rejected"])
    assert lengths.bias(Checks()).share == 0.5
    for chosen, rejected in (([9, 5, 2], [1, 5, 7]), ([8, 3, 3, 4, 1], [2, 1, 3, 6, 2])):
        lengths.add(pl.DataFrame({"chosen": chosen, "rejected": rejected}))
    assert (lengths.rows, lengths.longer, lengths.tied) == (8, 3, 2)
    assert lengths.bias(Checks()) == Finding("length_bias", "warn", 3, 0.5, 0.65, False)


@pytest.mark.parametrize(("longer", "failed"), [(17, False), (3, False), (18, True), (2, True)])
def test_chosen_answers_are_too_often_longer_or_shorter_above_the_limit(longer, failed):
    """Of 20 pairs. The limit is 0.85."""
    lengths = Lengths(["chosen", "rejected"])
    lengths.add(pl.DataFrame({"chosen": [2] * longer + [0] * (20 - longer), "rejected": [1] * 20}))
    found = lengths.bias(Checks())
    assert (found.count, found.share, found.failed) == (longer, longer / 20, failed)
    assert not lengths.bias(Checks(waive={"length_bias": "seen"})).failed


def test_answers_of_one_label_fail_and_there_is_nothing_to_tell_apart():
    lengths = feedback({5: 3}, {})
    assert lengths.told_apart(Checks()) is None
    assert lengths.findings(Checks()) == [Finding("one_label", "fail", 3, 1.0, 0.0, True)]
    assert lengths.findings(Checks(waive={"one_label": "seen"})) == [Finding("one_label", "warn", 3, 1.0, 0.0, False)]
    assert feedback({5: 3}, {5: 1}).one_label(Checks()) == Finding("one_label", "warn", 0, 0.0, 0.0, False)
    assert feedback({}, {}).findings(Checks()) == []
    assert Lengths(["completion"]).findings(Checks()) == []


def test_edges_of_the_histogram_double_to_above_the_longest_and_never_end_below_16():
    lengths = Lengths(["completion"])
    assert lengths.histogram() == {"edges": [0, 16], "completion": [0]}
    lengths.counts["completion"].update({15: 2, 0: 1})
    assert lengths.histogram() == {"edges": [0, 16], "completion": [3]}
    lengths.counts["completion"].update({16: 5})
    assert lengths.histogram() == {"edges": [0, 16, 32], "completion": [3, 5]}


def test_edges_of_the_histogram_are_those_of_the_side_with_the_longest():
    lengths = feedback({3: 2}, {40: 1, 20: 4})
    assert lengths.histogram() == {"edges": [0, 16, 32, 64], "desirable": [2, 0, 0], "undesirable": [0, 4, 1]}
