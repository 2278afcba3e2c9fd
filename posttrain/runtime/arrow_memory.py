"""Where Arrow's buffers lie while tables of megabytes come and go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa

T = TypeVar("T")


@contextmanager
def of_system() -> Iterator[None]:
    """Arrow asks the C library, not its own allocator: what one batch lets go of, arrays of NumPy can have for the next.

    Each of the two holds on to what it was given, and pages that change hands are zeroed again by the kernel.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def trimmed(items: Iterable[T], every: int) -> Iterator[T]:
    """The same, and after every so many the system has back what is free between what is in use.

    Tables differ in size, so that one does not fit into the gap of another, and such gaps would add up as long as a file is.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0:
            pa.default_memory_pool().release_unused()
