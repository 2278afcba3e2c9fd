"""What a worker starts for a run: Prefect's engine, which here waits for a server that is away, where it would end by itself.

python -m flows.deployed.engine
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from prefect.exceptions import TerminationSignal

from flows.deployed import patience
from flows.deployed.names import STORE
from posttrain.runtime.child_processes import die_with_parent
from posttrain.runtime.garbage import unsearched_at_exit
from posttrain.runtime.liveness import note_of_this_process, noted
from posttrain.runtime.store import Store
from tasks.exchange import STARTED, start_note


def main() -> None:
    """Run the flow run that PREFECT__FLOW_RUN_ID names; the process ends with the worker that started it."""
    die_with_parent()
    unsearched_at_exit()
    signal.signal(signal.SIGTERM, _end)  # the first process of a container has no default that would end it
    patience.install()
    try:
        with _noted():
            _run()
    except TerminationSignal:
        sys.exit(128 + signal.SIGTERM)
    finally:
        patience.end()


def _end(number: int, frame: object) -> NoReturn:
    raise TerminationSignal(signal=number)


def _run() -> None:
    """The engine ends by an exit where the server has told it to."""
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise


@contextmanager
def _noted() -> Iterator[None]:
    """Say in the store that this process lives, from its start on; nothing where no store is named.

    What ends in another way than it should leaves the note behind, by which others see that it is dead.
    """
    store, flow_run = os.environ.get(STORE), os.environ.get("PREFECT__FLOW_RUN_ID")
    if not store or not flow_run:
        yield
        return
    with noted(start_note(Store(store).root, flow_run), note_of_this_process(STARTED, flow_run)):
        yield


if __name__ == "__main__":
    main()
