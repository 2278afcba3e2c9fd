"""One finished run of a tiny recipe, made once per session through the real command line, and how to start such runs."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock

from posttrain.data.samples import write_sample
from schemas.results import RunReport

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"corpus": 300, "instructions": 120, "preferences": 120}
SECONDS = 550  # of one command; a quiet machine needs under 40, and pytest stops at 600

TINY = {
    "name": "tiny",
    "seed": 3,
    "model": {"source": "scratch", "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 400},
    "filtering": {"rules": {"words": {"min": 10}}},
    "pretrain": {"tokens": 60_000, "context": 64, "batch_tokens": 512},
    "sft": {"epochs": 6, "batch_size": 8, "max_length": 256, "learning_rate": 1.0e-3},
    "alignment": {
        "algorithm": "dpo", "epochs": 4, "batch_size": 8, "max_length": 256, "learning_rate": 5.0e-3,
        "keep": "last",  # the best on 12 held-out rows may be the untrained adapter, which changes nothing
        "peft": {"method": "lora", "r": 4, "alpha": 8},
    },
    "evaluation": {"prompts": 8, "max_new_tokens": 8, "judge": {"name": "posttrain.data.samples:sentiment"}},
    "registry": {"model": "tiny"},
}  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """No download, this checkout's code, and one thread: two that share a core wait for each other at every small product."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "POSTTRAIN_"))}
    return inherited | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes, for jobs that nobody has
        **more,
    }  # fmt: skip


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(report: RunReport, stage: str) -> dict[str, str]:
    """SHA-256 of the safetensors files that a stage put out, by name."""
    outputs = next(each.outputs for each in report.stages if each.name == stage)
    folder = Path(outputs.get("model") or outputs["adapter"])
    found = {path.name: sha256(path) for path in folder.glob("*.safetensors")}
    assert found, f"no weights in {folder}"
    return found


def _rows(folder: Path) -> dict[str, str]:
    """The first clean rows of each generated sample, as files."""
    files = {}
    for name, count in ROWS.items():
        everything = folder / f"all-{name}.jsonl"
        write_sample(name, everything)
        clean = [line for line in everything.read_text("utf-8").splitlines() if json.loads(line)["noise"] is None]
        everything.unlink()
        (folder / f"{name}.jsonl").write_text("\n".join(clean[:count]) + "\n", "utf-8")
        files[name] = str(folder / f"{name}.jsonl")
    return files


def pytest_collection_finish() -> None:
    """Collections of garbage, which some stages and tests ask for, need not look at what was imported and collected by now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """A shell that starts tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that the workers of pytest-xdist have in common; a worker's own lies within it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny(shared) -> SimpleNamespace:
    """`recipe` (its file), `document` (its content) and `folder` (its data) of the tiny recipe."""
    folder = shared / "tiny"
    with FileLock(shared / "tiny.lock"):
        if not (folder / "tiny.yaml").exists():
            folder.mkdir()
            written = {**TINY, "data": {**_rows(folder), "holdout": 0.2}}
            (folder / "tiny.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    document = yaml.safe_load((folder / "tiny.yaml").read_text())
    return SimpleNamespace(folder=folder, recipe=folder / "tiny.yaml", document=document)


@pytest.fixture(scope="session")
def cli():
    """Call the command line in a process of its own; every process of its group is gone at the end."""

    def call(*words: object, cwd: Path, seconds: float = SECONDS, **variables: str) -> subprocess.CompletedProcess:
        process = start(*words, cwd=cwd, **variables)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            kill_group(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call


def start(*words: object, cwd: Path, **variables: str) -> subprocess.Popen:
    """Start the command line as the leader of a new process group, which Prefect's server joins."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words)], cwd=cwd, env=environment(**variables), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL to a process started by `start` and to all of its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture(scope="session")
def helpers():
    """Functions of this file: test modules cannot import a conftest."""
    return SimpleNamespace(
        environment=environment, start=start, kill_group=kill_group, sha256=sha256, weights=weights, assert_helpful=assert_helpful
    )


@pytest.fixture(scope="session")
def finished(tiny, shared, cli) -> SimpleNamespace:
    """One uninterrupted run, with Prefect's own ephemeral server: `store`, `report`, `process`. Shared; do not change it."""
    store = shared / "finished"
    printed = {name: store.with_suffix(f".{name}") for name in ("stdout", "stderr")}
    with FileLock(store.with_suffix(".lock")):
        if not printed["stdout"].exists():
            process = cli("run", tiny.recipe, "--store", store, "--json", cwd=tiny.folder)
            assert process.returncode == 0, process.stderr
            for name, path in printed.items():
                path.write_text(getattr(process, name), "utf-8")
    out, err = (path.read_text("utf-8") for path in printed.values())
    return SimpleNamespace(store=store, stdout=out, stderr=err, report=RunReport.model_validate_json(out), recipe=tiny.recipe)


@pytest.fixture(scope="session")
def client_of():
    """An MLflow client of a store's SQLite file."""

    def client(store: Path):
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{store / 'tracking' / 'mlflow.db'}")

    return client


@pytest.fixture
def chat_server():
    """Starts a real OpenAI-compatible server on this machine: `chat_server(answer)` has its `url`, its `requests` and `headers`.

    `answer(body of the request, requests before it)` gives the text of a completion, a (status, body), or a function of the
    handler that writes to the connection by itself, where `handler.send` may help.
    """
    with ExitStack() as open_ones:
        yield lambda answer: open_ones.enter_context(_serving(answer))


@contextmanager
def _serving(answer):
    served, lock = SimpleNamespace(requests=[], headers=[]), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                before = len(served.requests)
                served.requests.append(body)
                served.headers.append(dict(self.headers))
            given = answer(body, before)
            if callable(given):
                given(self)
            else:
                self.send(*((200, completion(given)) if isinstance(given, str) else given))

        def send(self, status, body, **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str) -> str:
    """The body of a chat completion."""
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


def assert_helpful(message: str, said: tuple[str, ...]) -> None:
    """The form of every refusal: three lines: where and what was found, what is allowed, what to do; no traceback.

    Progress, in lines that begin with the time, may stand before.
    """
    assert "Traceback" not in message
    message = re.sub(r"\A(\[\d+:\d\d:\d\d\] .*\n)*", "", message)
    assert message.startswith("refused  ")
    assert "\n  allowed: " in message
    assert "\n  remedy:  " in message
    for words in said:
        assert words in message, f"{words!r} not in:\n{message}"
