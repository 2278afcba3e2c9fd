"""The rate of products is what a product of known size takes."""

from __future__ import annotations

import time

import torch

from posttrain.runtime.matmul_rate import matmul_gflops


def test_the_rate_is_that_of_a_product_within_a_factor():
    """A product of 512² matrices has 2 · 512³ operations; a shared machine makes the factor wide."""
    size = 512
    left = torch.ones(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(left, left)
        best = min(best, time.perf_counter() - began)
    expected = 2e-9 * size**3 / best
    assert expected / 5 < matmul_gflops(torch.device("cpu"), torch.float32) < 5 * expected
