"""The intervals of evaluation hold their level over 2,000 simulated evaluations of every kind."""

from __future__ import annotations

import pytest

from bench.numbers_coverage import CASES, UNITS, table


@pytest.fixture(scope="module")
def rows():
    return table()


def test_every_kind_of_unit_and_number_of_units_has_a_row(rows):
    assert [(row["case"], row["n"]) for row in rows] == [(case.name, units) for case in CASES for units in UNITS]


def test_the_truth_lies_in_at_least_93_of_100_intervals(rows):
    assert [row for row in rows if row["coverage"] < 0.93] == []


def test_a_gate_on_the_lower_bound_passes_at_its_limit_at_most_35_times_in_1000(rows):
    assert [row for row in rows if row["passes_at_limit"] > 0.035] == []


def test_the_price_is_a_wider_interval_only_where_units_are_few(rows):
    """256 normal rewards: twice 1.96 / 16 = .245; wins at one half: the same times their standard deviation of .5."""
    width = {row["case"]: row["median_width"] for row in rows if row["n"] == 256}
    assert width["normal rewards"] == pytest.approx(0.245, rel=0.05)
    assert width["share 0.5"] == pytest.approx(0.1225, rel=0.05)
