"""Weights decide how many rows of each source there are, never which split they are in."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from posttrain.data.mixture import Mixture
from posttrain.data.sources import SourceFile


def table(**rows: tuple[int, int]) -> pl.DataFrame:
    """Of each source so many rows of train and of holdout."""
    parts = [
        {"source": f"{name}/x.jsonl", "row": at, "split": "train" if at <= train else "holdout"}
        for name, (train, held) in rows.items()
        for at in range(1, train + held + 1)
    ]
    return pl.DataFrame(parts)


class Mixed:
    """All rows of a table mixed, taken in two pieces."""

    def __init__(self, given: pl.DataFrame, files: list[SourceFile]) -> None:
        mixture = Mixture(files)
        for part in (given.head(7), given.slice(7)):
            mixture.take(part)
        self.table = given.filter(pl.Series(mixture.drawn(np.ones(given.height, np.bool_)), dtype=pl.Boolean))
        self.left_out, self.summary = mixture.left_out, mixture.summary


mix = Mixed


def files(**weights: float | None) -> list[SourceFile]:
    return [SourceFile(f"{name}/x.jsonl", "", group=at, weight=weight) for at, (name, weight) in enumerate(weights.items())]


def counts(given: pl.DataFrame) -> dict[tuple[str, str], int]:
    return {(source[0], split): n for source, split, n in given.group_by("source", "split").len().iter_rows()}


def test_without_weights_all_rows_stay():
    given = table(a=(3, 1), b=(5, 0))
    found = mix(given, files(a=None, b=None))
    assert found.table.equals(given)
    assert (found.left_out, found.summary) == (0, {})


@pytest.mark.parametrize(
    ("weights", "train", "holdout"),
    [
        ((1, 1), (60, 60), (10, 10)),  # as many of the larger one as the smaller one has
        ((3, 1), (90, 30), (10, 3)),  # of a there are 90 and 10; a third of them of b
        ((1, 3), (20, 60), (3, 10)),
        ((0.03, 0.01), (90, 30), (10, 3)),
    ],
)
def test_the_scarcest_source_is_used_whole(weights, train, holdout):
    given = table(a=(90, 10), b=(60, 10))
    found = mix(given, files(a=weights[0], b=weights[1]))
    assert counts(found.table) == {
        ("a", "train"): train[0], ("b", "train"): train[1], ("a", "holdout"): holdout[0], ("b", "holdout"): holdout[1],
    }  # fmt: skip
    assert found.left_out == given.height - found.table.height
    assert found.summary["mixture"][0] == {"source": "a", "weight": weights[0], "rows": 100, "used": train[0] + holdout[0]}


def test_rows_keep_their_order_and_a_smaller_share_is_a_part_of_a_larger_one():
    given = table(a=(200, 0), b=(100, 0))
    small, large = (set(mix(given, files(a=weight, b=1)).table.filter(source="a/x.jsonl")["row"]) for weight in (0.2, 0.9))
    assert small < large
    found = mix(given, files(a=0.2, b=1)).table
    assert found["row"].to_list() == sorted(small) + list(range(1, 101))
    assert max(small) > 100  # not the first rows of the file


def test_a_source_without_a_row_in_a_split_takes_none_from_the_others():
    found = mix(table(a=(40, 4), b=(20, 0)), files(a=1, b=1))
    assert counts(found.table) == {("a", "train"): 20, ("b", "train"): 20, ("a", "holdout"): 4}


def test_nothing_is_nothing():
    assert mix(table(a=(1, 0)).head(0), files(a=1, b=2)).table.height == 0
