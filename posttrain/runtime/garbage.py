"""When Python looks for cyclic garbage: never among modules.

Importing torch, transformers, Prefect and MLflow makes a million objects that stay until the process ends. A look through them
takes half a second and finds nothing. Python takes several while it imports, and several more at the end.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Do not look for cyclic garbage inside; what is free of cycles is freed all the same."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Do not look for cyclic garbage inside, and never later among what lives at the end: modules stay.

    For code that mostly imports. What else is made inside is freed as ever, unless it is garbage with cycles by then.
    """
    with uncollected():
        yield
        gc.freeze()


def unsearched_at_exit() -> None:
    """End this process without looking for garbage, which the system takes back with the rest.

    What is registered with `atexit` still runs, and runs before this where it was registered later. Temporary folders and the
    like are among it; a `__del__` of garbage with cycles may not run, which Python does not promise either.
    """
    atexit.register(gc.freeze)
