"""Train a stage in several processes: started, watched and ended by this one, which does not train itself."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from posttrain.runtime.child_processes import PYTHON, child_environment, child_of_this_process, stop
from posttrain.runtime.partial import CHECKPOINT
from posttrain.runtime.progress import Progress
from posttrain.runtime.store import Built
from posttrain.training.launch.messages import BUILT, FAILURE, PROGRESS, REQUEST, exception_of, growing_lines
from posttrain.training.request import StageRequest

LOG = "workers.log"  # what the processes print
LOG_LINES = 30  # of it, in an error
GRACE_SECONDS = 60  # for the step in hand and its checkpoint, when training is asked to stop
POLL_SECONDS = 0.1


class WorkersFailed(RuntimeError):
    """The processes ended without a result, and without an exception that says why."""


def launch(request: StageRequest) -> Built:
    """Build the stage with `compute.num_processes` processes.

    However this process ends, they end too, after a checkpoint at the end of their step; on Linux that holds for kill -9.

    Raises:
        Exception: what a process raised, with the end of the log as a note.
        WorkersFailed: when they ended otherwise.
    """
    progress, checkpoints = request.progress, request.out / CHECKPOINT
    checkpoints.mkdir(parents=True, exist_ok=True)
    folder = checkpoints / f"launch-{secrets.token_hex(8)}"
    folder.mkdir()
    (folder / REQUEST).write_text(request.model_dump_json())
    with (request.out / LOG).open("ab") as log:
        begin = log.tell()
        process = _start(request.recipe.compute.num_processes, folder / REQUEST, log)
        try:
            _follow(process, folder / PROGRESS, progress)
        except BaseException:
            progress.note("the processes end their step and write a checkpoint; once more stops at once")
            stop(process, GRACE_SECONDS + 10)
            raise
    return _outcome(folder, process.returncode, _end_of(request.out / LOG, begin))


def _start(processes: int, request: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*PYTHON, *elastic, "-m", "posttrain.training.launch.worker", str(request)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(processes), start_new_session=True,
        preexec_fn=child_of_this_process(),
    )  # fmt: skip


def _environment(processes: int) -> dict[str, str]:
    """This process's, with its cores shared out where nobody did."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    return threads | child_environment() | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS)}


def _follow(process: subprocess.Popen[bytes], path: Path, progress: Progress) -> None:
    """Pass on what the main process reports, until the processes have ended."""
    lines = growing_lines(path)
    running = True
    while running:
        running = process.poll() is None  # asked first: what was written before the end is read after it
        while line := next(lines):
            call, *arguments = json.loads(line)
            getattr(progress, call)(*arguments)
        time.sleep(POLL_SECONDS if running else 0)


def _outcome(folder: Path, code: int, log: str) -> Built:
    if code == 0 and (folder / BUILT).exists():
        return Built(**json.loads((folder / BUILT).read_text()))
    if (folder / FAILURE).exists():
        error = exception_of((folder / FAILURE).read_text())
    else:
        error = WorkersFailed(f"the processes ended with exit code {code}; a signal, or too little memory, would do that")
    error.add_note(f"the end of {LOG}:\n{log}")
    raise error


def _end_of(path: Path, begin: int) -> str:
    with path.open("rb") as stream:
        stream.seek(begin)
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-LOG_LINES:])
