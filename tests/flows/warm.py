"""Imports once what a run imports, and forks for each call of the command line: imports take longer than tiny stages.

Each line of stdin is a request in JSON. `words`, `cwd`, `variables`, `stdout` and `stderr` start a call, and the answer is its
process id; the answer to `poll` is the exit code of such a process, or null while it runs. Each call leads a new process group.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

from flows import defaults

OURS = ("schemas", "posttrain", "tasks", "flows")
THEIRS = (
    "alembic.command", "git", "matplotlib.backends.backend_svg", "mlflow.pyfunc", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "pandera.polars", "prefect.flow_engine", "prefect.task_engine",
    "pyarrow.parquet", "transformers.convert_slow_tokenizer", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5",
)  # fmt: skip


def import_all() -> None:
    """Our modules, and those of libraries that are imported where they are first needed."""
    ours = [each.name for name in OURS for each in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}.")]
    for module in (*ours, *THEIRS):
        importlib.import_module(module)


def next_call() -> dict:
    """Answer requests until one starts a call, and return it in the process that carries it out."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if done else None
        elif not (answer := os.fork()):
            return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def become(request: dict) -> None:
    """Take the place of a process that was started with these words, variables and streams in this folder."""
    os.setsid()
    os.chdir(request["cwd"])
    streams = (os.devnull, os.O_RDONLY), *((request[name], os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr"))
    for number, (path, mode) in enumerate(streams):
        opened = os.open(path, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.path[:0] = request["variables"]["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["posttrain", *request["words"]]


if __name__ == "__main__":
    defaults.apply(Path())  # as the command line does before it imports the rest
    import_all()
    gc.collect()
    gc.freeze()  # no call's collections look at what all share
    become(next_call())
    from flows.cli import main

    main()
