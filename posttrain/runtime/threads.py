"""How many threads work on a model: to wake a second one takes longer than most operations of a small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 4_000_000
"""Parameters below which one thread is faster than two: 1.2 million decoded 5,000 tokens a second with one and 2,700 with two,
8.5 million as many with either, 62 million a fifth fewer with one (2 cores, OMP_WAIT_POLICY=PASSIVE, 128 rows)."""


@contextmanager
def suited_threads(parameters: int) -> Iterator[None]:
    """Work on a model of so many parameters in one thread where it is small, and afterwards in as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
