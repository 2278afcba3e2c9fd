"""The packed layout, cell by cell, and the grouping of rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.data.packing import Example, in_one_row, micro_batches, pack, padding_to_common_width, prompt_groups
from posttrain.scoring.attention_mask import visible_keys


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


PAIR = Example(ints(11, 12, 13), (ints(21, 22), ints(31, 32, 33)))


def visible(packed, row: int, query: int) -> list[int]:
    """Columns that a query sees."""
    return visible_keys(packed)[row, 0, query].nonzero()[:, 0].tolist()


def test_lengths_count_the_shared_prompt_once():
    """3 + 2 + 3 = 8 tokens, 2 + 3 = 5 of them scored."""
    assert (PAIR.length, PAIR.targets) == (8, 5)


def test_one_pair_is_laid_out_as_by_hand():
    """Prompt 0-2, chosen 3-4, rejected 5-7; both branches continue at position 3; 8 columns, so no padding.

    A target is predicted by the token before it: the first of both branches by the end of the prompt, column 2.
    """
    packed = pack([PAIR])
    assert packed.input_ids.tolist() == [[11, 12, 13, 21, 22, 31, 32, 33]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert packed.at.tolist() == [2, 3, 2, 5, 6]
    assert packed.targets.tolist() == [21, 22, 31, 32, 33]
    assert packed.branch.tolist() == [0, 0, 1, 1, 1]
    assert packed.branches == 2


def test_mask_of_one_pair_by_hand():
    """Rejected sees the prompt and itself, never chosen; nothing sees what comes after it."""
    packed = pack([PAIR])
    assert [visible(packed, 0, query) for query in range(8)] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 5], [0, 1, 2, 5, 6], [0, 1, 2, 5, 6, 7],
    ]  # fmt: skip


def test_rows_are_padded_to_a_multiple_of_8_and_padding_sees_no_example():
    """4 tokens in 8 columns, 4 of padding. A softmax over nothing is NaN; padding that sees the example is harmless but wrong."""
    packed = pack([Example(ints(5, 6), (ints(7, 8),))])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 0, 0, 0, 0]]
    assert [visible(packed, 0, query) for query in (3, 4, 7)] == [[0, 1, 2, 3], [4], [4, 5, 6, 7]]


def test_examples_of_one_row_do_not_see_each_other_and_their_positions_restart():
    """The longer (5 tokens) is laid first: columns 0-4; the shorter (3) follows in 5-7. Branches stay in the order given."""
    short, long = Example(ints(1, 2), (ints(3),)), Example(ints(4, 5, 6), (ints(7, 8),))
    packed = pack([short, long, Example(ints(9, 9, 9, 9), (ints(9, 9, 9, 9),))])  # the third sets the width of 8
    assert packed.input_ids.tolist() == [[9] * 8, [4, 5, 6, 7, 8, 1, 2, 3]]
    assert packed.position_ids[1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert visible(packed, 1, 7) == [5, 6, 7]
    assert packed.targets[:3].tolist() == [3, 7, 8]
    assert packed.at[:3].tolist() == [8 + 6, 8 + 2, 8 + 3]
    assert packed.branch.tolist() == [0, 1, 1, 2, 2, 2, 2]


def test_first_fit_puts_an_example_into_the_first_row_with_room():
    """Width 16. Lengths 16, 10, 9, 6, 5: 16 | 10 + 6 | 9 + 5 make three rows; next-fit would need four."""
    sizes = (9, 16, 5, 10, 6)
    packed = pack([Example(ints(size), (ints(*[size] * (size - 1)),)) for size in sizes])
    assert packed.input_ids.tolist() == [[16] * 16, [10] * 10 + [6] * 6, [9] * 9 + [5] * 5 + [0] * 2]


def test_a_branch_of_one_token_is_predicted_by_the_prompt():
    packed = pack([Example(ints(1, 2), (ints(3), ints(4)))])
    assert packed.at.tolist() == [1, 1]
    assert packed.position_ids[0, :4].tolist() == [0, 1, 2, 2]


def test_every_target_stands_after_the_hidden_state_that_predicts_it():
    """Property: for the first token of a branch `at` is the prompt's last column, otherwise the column before the target."""
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 99, p), tuple(rng.integers(1, 99, n) for n in ns)) for p, *ns in
                rng.integers(1, 12, (20, 3)).tolist()]  # fmt: skip
    packed = pack(examples)
    flat, branches = packed.input_ids.flatten(), [(e, b) for e in examples for b in e.branches]
    for number, (example, branch) in enumerate(branches):
        at = packed.at[packed.branch == number]
        assert flat[at].tolist() == [example.prompt[-1], *branch[:-1]]
        assert packed.targets[packed.branch == number].tolist() == branch.tolist()


def test_micro_batches_by_hand():
    """Budget 10, longest first, closing a group at the first row that does not fit: 12 alone (over budget), 7, 6 + 4, 3 + 2."""
    lengths = np.array([4, 7, 2, 12, 3, 6])
    assert micro_batches(range(6), lengths, 10) == [[3], [1], [5, 0], [4, 2]]


def test_micro_batches_keep_the_budget_and_every_row_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 200)
    groups = micro_batches(range(200), lengths, 50)
    assert all(lengths[group].sum() <= 50 or len(group) == 1 for group in groups)
    assert sorted(row for group in groups for row in group) == list(range(200))


def test_micro_batches_do_not_depend_on_the_order_of_the_rows():
    lengths = np.array([5, 3, 5, 8, 3, 5, 1])
    rows = list(range(7))
    expected = micro_batches(rows, lengths, 9)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert micro_batches(rows, lengths, 9) == expected


@pytest.mark.parametrize("rows", [[2, 2, 0], [0, 2, 2]])
def test_a_row_that_a_step_has_twice_is_trained_on_twice(rows):
    assert micro_batches(rows, np.array([3, 9, 4]), 100) == [[2, 2, 0]]


def test_the_cheapest_width_weighs_padding_against_attention():
    """Lengths 60, 40, 40, 40 (180 tokens). At token cost 0 only attention counts, R C²: 4 rows of 64 cost 16,384 and one row of
    184 33,856. At a large token cost only padding counts, R C: 256 against 184 (three rows of 64 do not hold them)."""
    examples = [Example(ints(*[1] * (n - 1)), (ints(2),)) for n in (60, 40, 40, 40)]
    assert pack(examples, token_cost=0).input_ids.shape == (4, 64)
    assert pack(examples, token_cost=10**6).input_ids.shape == (1, 184)


def test_examples_with_one_prompt_share_a_number_wherever_they_are():
    examples = [Example(prompt, ((5,),)) for prompt in ((1, 2), (3,), (1, 2), (1,), (3,))]
    assert prompt_groups(examples) == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("tokens", "padding"), [(1, 0), (15, 0), (16, 0), (17, 1), (31, 1), (300, 20), (513, 63), (576, 0), (1000, 24)]
)
def test_padding_to_a_common_width_by_hand(tokens, padding):
    """Between 16 and 32 widths are 2 apart, between 256 and 512 they are 32, between 512 and 1,024 they are 64."""
    assert padding_to_common_width(tokens) == padding


def test_there_are_eight_widths_between_two_powers_of_two():
    assert len({tokens + padding_to_common_width(tokens) for tokens in range(257, 513)}) == 8


def test_padding_in_one_row_belongs_to_no_example():
    row = in_one_row([PAIR], padding=3)
    assert row.owner.tolist() == [[0] * 8 + [-1] * 3]
    assert (row.at.tolist(), row.targets.tolist()) == ([2, 3, 2, 5, 6], [21, 22, 31, 32, 33])
