"""One finished run of a tiny recipe, made once per session through the real command line, and a Prefect server for the others."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from posttrain.data.samples import write_sample
from schemas.results import RunReport

ROOT = Path(__file__).resolve().parents[2]
ROWS = {"corpus": 300, "instructions": 120, "preferences": 120}
SECONDS = 300  # of one command; a quiet machine needs under 40

TINY = {
    "name": "tiny",
    "seed": 3,
    "model": {"source": "scratch", "hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 400},
    "filtering": {"rules": {"words": {"min": 10}}},
    "pretrain": {"tokens": 60_000, "context": 64, "batch_tokens": 512},
    "sft": {"epochs": 6, "batch_size": 8, "max_length": 256, "learning_rate": 1.0e-3},
    "alignment": {
        "algorithm": "dpo", "epochs": 4, "batch_size": 8, "max_length": 256, "learning_rate": 5.0e-3,
        "peft": {"method": "lora", "r": 4, "alpha": 8},
    },
    "evaluation": {"prompts": 8, "max_new_tokens": 8, "judge": {"name": "posttrain.data.samples:sentiment"}},
    "registry": {"model": "tiny"},
}  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """No download, this checkout's code, and one thread: two that share a core wait for each other at every small product."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "POSTTRAIN_"))}
    return inherited | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", **more
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


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> None:
    """A shell that starts tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    """`recipe` (its file), `document` (its content) and `folder` (its data) of the tiny recipe."""
    folder = tmp_path_factory.getbasetemp() / "tiny"
    folder.mkdir(exist_ok=True)  # tests/tasks has this fixture too
    document = {**TINY, "data": {**_rows(folder), "holdout": 0.2}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
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
    return SimpleNamespace(start=start, kill_group=kill_group, sha256=sha256, weights=weights, assert_helpful=assert_helpful)


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory):
    """A Prefect server that the runs of a session share, so that each does not start its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("prefect") / "server.log"
    command = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment(PREFECT_HOME=str(log.parent)), stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_healthy(server, f"{url}/health", log)
        yield url
    finally:
        kill_group(server)
        server.wait()


def _wait_until_healthy(server: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"no Prefect server: {log.read_text()}")


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory, cli) -> SimpleNamespace:
    """One uninterrupted run, with Prefect's own ephemeral server: `store`, `report`, `process`. Shared; do not change it."""
    store = tmp_path_factory.getbasetemp() / "finished"
    printed = {name: store.with_suffix(f".{name}") for name in ("stdout", "stderr")}
    if not printed["stdout"].exists():  # tests/tasks has this fixture too
        process = cli("run", tiny.recipe, "--store", store, "--json", cwd=tiny.folder)
        assert process.returncode == 0, process.stderr
        for name, path in printed.items():
            path.write_text(getattr(process, name), "utf-8")
    out, err = (path.read_text("utf-8") for path in printed.values())
    return SimpleNamespace(store=store, stdout=out, stderr=err, report=RunReport.model_validate_json(out), recipe=tiny.recipe)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished store that the test may change."""
    return Path(shutil.copytree(finished.store, tmp_path / "store"))


@pytest.fixture(scope="session")
def again(tiny, prefect_url, cli):
    """Run the tiny recipe on a store: process and report (None when there was none)."""

    def run(store: Path, *words: str) -> SimpleNamespace:
        process = cli("run", tiny.recipe, "--store", store, "--json", *words, cwd=tiny.folder, PREFECT_API_URL=prefect_url)
        report = RunReport.model_validate_json(process.stdout) if process.stdout else None
        built = [stage.name for stage in report.stages if not stage.reused] if report else []
        return SimpleNamespace(process=process, report=report, built=built)

    return run


@pytest.fixture(scope="session")
def client_of():
    """An MLflow client of a store's SQLite file."""

    def client(store: Path):
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{store / 'tracking' / 'mlflow.db'}")

    return client


@pytest.fixture(scope="session")
def nested_of(client_of):
    """Nested runs under a parent run, by their stage: a list of (stage, run), in the order of their start."""

    def nested(store: Path, run_id: str) -> list:
        client = client_of(store)
        experiment = client.get_run(run_id).info.experiment_id
        found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["attributes.start_time"])
        return [(run.data.tags["stage"], run) for run in found]

    return nested


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Call the command line in this process from an empty folder: code, out, err."""
    from flows.cli import main

    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)

    def run(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code, out=printed.out, err=printed.err)

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def refused(call, tmp_path):
    """Assert that `check` and `run` refuse in the same words, each of which names `said`; returns what they printed."""

    def both(recipe: Path, words: list[str], said: tuple[str, ...]) -> str:
        for verb in ("check", "run"):
            done = call(verb, recipe, *words, "--store", tmp_path / "store")
            assert done.code == 2, f"{verb}: {done.code}\n{done.out}{done.err}"
            assert_helpful(done.err, said)
            assert done.out == ""
            written = {path.name for path in (tmp_path / "store").glob("*")}
            assert written <= {"quarantine"}, f"{verb} wrote {written}"
        return done.err

    return both


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
