"""Which rows a step trains on."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from posttrain.training.batches import by_rows, by_tokens, by_tokens_with_tail


def flat(plan) -> list[int]:
    return list(chain.from_iterable(plan))


def test_every_row_is_seen_once_per_epoch_and_the_last_step_of_an_epoch_is_smaller():
    """7 rows in steps of 3: 3 + 3 + 1, twice."""
    plan = by_rows(7, 3, 2, seed=0)
    assert [len(step) for step in plan] == [3, 3, 1, 3, 3, 1]
    assert sorted(flat(plan[:3])) == sorted(flat(plan[3:])) == list(range(7))


def test_the_order_is_new_in_each_epoch_and_fixed_by_the_seed():
    plan = by_rows(50, 50, 2, seed=3)
    assert plan[0] != plan[1]
    assert plan[0] != list(range(50))
    assert plan == by_rows(50, 50, 2, seed=3)
    assert plan != by_rows(50, 50, 2, seed=4)


def test_a_longer_run_begins_like_a_shorter_one():
    assert by_rows(10, 4, 3, seed=1)[:3] == by_rows(10, 4, 1, seed=1)


def test_tokens_by_hand():
    """Rows of 4 tokens, steps of at most 10, 22 tokens wanted: 2 + 2 + 2 rows, 24 tokens, since whole rows are taken."""
    plan = by_tokens([4] * 100, batch_tokens=10, tokens=22, seed=0)
    assert [len(step) for step in plan] == [2, 2, 2]
    assert len(set(flat(plan))) == 6


def test_rows_repeat_once_all_were_seen():
    """3 rows of 5 tokens, 40 wanted: 8 rows, so each is seen 2 or 3 times."""
    plan = by_tokens([5, 5, 5], batch_tokens=10, tokens=40, seed=0)
    assert [len(step) for step in plan] == [2, 2, 2, 2]
    assert sorted(Counter(flat(plan)).values()) == [2, 3, 3]


def test_a_row_longer_than_a_step_stands_alone():
    plan = by_tokens([30, 30], batch_tokens=10, tokens=90, seed=0)
    assert [len(step) for step in plan] == [1, 1, 1]


def test_no_step_is_empty_and_none_but_lone_rows_is_above_its_budget():
    lengths = [1 + (i * 7) % 23 for i in range(40)]
    for seed in range(5):
        for step in by_tokens(lengths, batch_tokens=20, tokens=600, seed=seed):
            assert step
            assert len(step) == 1 or sum(lengths[row] for row in step) <= 20


def test_token_plans_are_fixed_by_the_seed():
    assert by_tokens([3] * 20, 9, 90, seed=1) == by_tokens([3] * 20, 9, 90, seed=1) != by_tokens([3] * 20, 9, 90, seed=2)


@pytest.mark.timeout(10)
def test_a_token_plan_over_no_rows_ends():
    """All kept documents may be held out: then there is nothing to train on, and looking for rows forever finds none."""
    assert flat(by_tokens([], batch_tokens=10, tokens=100, seed=0)) == []


def test_the_tail_is_read_last_for_its_share_of_the_tokens():
    """8 rows of 5 tokens and 2 of the tail: of 100 tokens 80 from the first, each read twice, then 20 from the tail."""
    plan = by_tokens_with_tail([5] * 10, 2, batch_tokens=10, tokens=100, seed=0)
    assert Counter(flat(plan)) == dict.fromkeys(range(10), 2)
    assert set(flat(plan[:8])) == set(range(8))
    assert set(flat(plan[8:])) == {8, 9}


def test_without_a_tail_nothing_changes():
    assert by_tokens_with_tail([4] * 9, 0, 10, 60, seed=2) == by_tokens([4] * 9, 10, 60, seed=2)


def test_all_may_be_tail():
    assert Counter(flat(by_tokens_with_tail([5, 5], 2, 10, 20, seed=0))) == {0: 2, 1: 2}
