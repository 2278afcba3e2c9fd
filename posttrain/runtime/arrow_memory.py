"""Where Arrow's buffers lie while tables of megabytes come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


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
