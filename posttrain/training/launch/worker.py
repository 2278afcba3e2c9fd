"""One of the processes that train a stage together; torch's elastic launcher starts it with the path of its request.

The main one writes into the stage's folder and reports; the others write into a folder that is thrown away.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from posttrain.runtime import redaction
from posttrain.runtime.child_processes import die_with_parent
from posttrain.runtime.device import resolve_device
from posttrain.runtime.distributed import is_main, process_group
from posttrain.runtime.garbage import unsearched_at_exit
from posttrain.runtime.locks import locked
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import Progress, Quiet, reporting
from posttrain.training.launch.messages import BUILT, FAILURE, PROGRESS, WrittenProgress, describe
from posttrain.training.request import StageRequest, carry_out


def main(path: Path) -> None:
    """Carry out the request that lies at `path` together with the other processes of the group."""
    redaction.install()
    unsearched_at_exit()
    die_with_parent(signal.SIGKILL)  # workers lead groups of their own, so that a kill of the launcher's does not reach them
    request = StageRequest.model_validate_json(path.read_text())
    with _reported(path.with_name(FAILURE)), ExitStack() as stack:
        stack.enter_context(process_group(resolve_device(request.recipe.compute)))
        progress: Progress = Quiet()
        if is_main():
            # Workers of an attempt whose launcher was killed may still be writing their last checkpoint.
            stack.enter_context(locked(request.out / CHECKPOINT / "lock"))
            progress = WrittenProgress(path.with_name(PROGRESS))
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            request = request.model_copy(update={"out": scratch})
        stack.enter_context(reporting(progress))
        built = carry_out(request)
        if is_main():
            path.with_name(BUILT).write_text(json.dumps(asdict(built)))


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Leave the first exception of any process where the launching one finds it; the others follow from it."""
    try:
        yield
    except Exception as error:
        with suppress(FileExistsError), path.open("x") as stream:
            stream.write(describe(error))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
