"""One thread for small models, and what there was afterwards, also after an exception."""

from __future__ import annotations

import pytest
import torch

from posttrain.runtime.threads import SMALL, suited_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("parameters", "threads"), [(SMALL - 1, 1), (SMALL, 2)])
def test_a_small_model_has_one_thread_while_it_works(two_threads, parameters, threads):
    with suited_threads(parameters):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_the_threads_are_there_again_after_an_exception(two_threads):
    with pytest.raises(ZeroDivisionError), suited_threads(0):
        _ = 1 / 0
    assert torch.get_num_threads() == 2
