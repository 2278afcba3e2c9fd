"""Scores found by the tokens that they belong to."""

from __future__ import annotations

import numpy as np
import torch

from posttrain.data.packing import Example
from posttrain.scoring.known_scores import FILE, find_known, save_known


def example(prompt: list[int], *branches: list[int]) -> Example:
    return Example(np.array(prompt, np.int32), tuple(np.array(branch, np.int32) for branch in branches))


def test_scores_are_found_in_any_order_and_what_was_not_saved_is_nan(tmp_path):
    one, two = example([1, 2], [3], [4, 5]), example([1], [2, 3], [4])
    save_known(tmp_path / FILE, [one, two], torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    found = find_known(tmp_path / FILE, [two, example([9], [9], [9]), one])
    assert found[[0, 2]].tolist() == [[-3.0, -4.0], [-1.0, -2.0]]
    assert found[1].isnan().all()


def test_the_same_tokens_cut_elsewhere_are_another_pair(tmp_path):
    save_known(tmp_path / FILE, [example([1, 2], [3], [4, 5])], torch.tensor([[-1.0, -2.0]]))
    assert find_known(tmp_path / FILE, [example([1], [2, 3], [4, 5])]).isnan().all()
