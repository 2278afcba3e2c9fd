"""Draws by hand, against the exact distribution, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import posttrain.sampling.multinomial as draws
from posttrain.sampling.multinomial import NOTHING, draw


def test_a_draw_by_hand(monkeypatch):
    """p = (.1, .2, .3, .2, .2) in blocks of 2: masses .3, .5, .2, edges .3, .8, 1.

    A first number of .5 falls into the second block, where p is (.3, .2): the edges are .6 and 1 of it.
    """
    monkeypatch.setattr(draws, "BLOCK", 2)
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.2, 0.2]]).log().expand(5, -1)
    uniforms = torch.tensor([[0.5, 0.59], [0.5, 0.61], [0.0, 0.0], [0.29, 0.9], [0.81, 0.99]], dtype=torch.float64)
    assert draw(logits, 1.0, uniforms).tolist() == [2, 3, 0, 1, 4]
    assert draw(torch.tensor([[0.0, 0.0, 9.0, 3.0, 0.0]]), 0.01, uniforms[2:3]).tolist() == [2]


@pytest.mark.parametrize("elements", [2**19, 1])
def test_a_large_vocabulary_is_drawn_in_its_blocks(elements, monkeypatch, chi_square):
    """1,300 tokens are two blocks of 512 and a rest; tokens of probability 0 never come."""
    monkeypatch.setitem(draws.BLOCK_ELEMENTS, "cpu", elements)
    logits = torch.randn(1300, generator=torch.Generator().manual_seed(0)) * 2
    logits[::3] = -torch.inf
    count = 40_000 if elements > 1 else 500
    uniforms = torch.rand(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = np.bincount(draw(logits.expand(count, -1), 1.0, uniforms).numpy(), minlength=1300)
    assert counts[::3].sum() == 0
    assert abs(chi_square(counts, logits.double().softmax(-1).numpy())) < 4


def test_the_edges_of_the_unit_interval_draw_tokens_that_are_possible():
    logits = torch.tensor([[-torch.inf] * 600 + [0.0, 1.0] + [-torch.inf] * 700])
    almost_one = np.nextafter(1.0, 0.0)
    for u, token in ((0.0, 600), (almost_one, 601)):
        assert draw(logits, 1.0, torch.full((1, 2), u, dtype=torch.float64)).tolist() == [token]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nothing_is_drawn_from_logits_that_are_not_finite(bad):
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    assert draw(logits, 1.0, torch.full((2, 2), 0.5, dtype=torch.float64)).tolist() == [2, NOTHING]
