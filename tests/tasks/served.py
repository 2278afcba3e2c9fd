"""A saved model as consumers have it: a tiny one to serve, a server in a process without this project, and requests to it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mlflow
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.data.chat_templates import BUILT_IN
from posttrain.data.tokenizer import prepare_tokenizer, train_tokenizer
from tasks.registry import consumer_of

LONGEST = 256  # tokens that the tiny model reads
SECONDS = 300  # until a server answers; a quiet machine needs 15


def save_chat_model(folder: Path) -> Path:
    """Saves a tiny chat model of random weights as a version holds it, and returns where."""
    tokenizer = prepare_tokenizer(train_tokenizer(["A short text.", "Hello! Be brief. Hi. And?"] * 9, 280), BUILT_IN["chatml"])
    tokenizer.save_pretrained(folder / "checkpoint")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, eos_token_id=tokenizer.eos_token_id, **shape)
    model = LlamaForCausalLM(config)
    for parameter in (p for p in model.parameters() if p.dim() > 1):  # a new model repeats itself
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "checkpoint")
    mlflow.pyfunc.save_model(folder / "saved", **consumer_of(folder, {"checkpoint": "checkpoint"}))
    return folder / "saved"


def without_project(**more: str) -> dict[str, str]:
    """The environment of a process that finds nothing of this project and downloads nothing."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    return clean | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | quiet | more


class Served(NamedTuple):
    """The address of a server, and what it answers."""

    address: str

    def ask(self, path: str = "/invocations", body: bytes | None = None, **asked: object) -> tuple[int, object]:
        """Status and decoded answer of one request, of `body` or of `asked` as JSON."""
        sent = body if body is not None else json.dumps(asked).encode()
        request = urllib.request.Request(self.address + path, sent, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@contextmanager
def serving(command: list[object], port: int, folder: Path, **variables: str) -> Iterator[Served]:
    """A server that a command starts from a folder, from its first answer on; it is killed with its children."""
    log = folder / f"server-{port}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=without_project(**variables),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield Served(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _wait(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")
