"""Imports once what a run imports, and forks for each call of the command line: imports take longer than tiny stages.

Each line of stdin is a request in JSON. `words`, `cwd`, `variables`, `stdout` and `stderr` start a call, and the answer is its
process id; the answer to `poll` is the exit code of such a process, or null while it runs. Each call leads a new process group.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

from flows import defaults

MODULES = (
    "flows.check", "flows.console", "flows.inline", "flows.post_training", "flows.sweep", "matplotlib.backends.backend_svg",
    "mlflow", "mlflow.pyfunc", "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store",
    "posttrain.trainers.order", "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.t5.modeling_t5",
)  # fmt: skip


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
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # no call's collections look at what all share
    become(next_call())
    from flows.cli import main

    main()
