"""Runs of the tiny recipe beside the finished one: a Prefect server for them, and a process that they are copies of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.server import EPHEMERAL, free_port
from posttrain.runtime.child_processes import child_of_this_process
from schemas.results import RunReport

WARM = Path(__file__).with_name("warm.py")


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory, helpers):
    """A Prefect server that the runs of a session share, so that each does not start its own."""
    port = free_port()
    log = tmp_path_factory.mktemp("prefect") / "server.log"
    command = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=helpers.environment(PREFECT_HOME=str(log.parent), **EPHEMERAL),
            stdout=stream, stderr=stream, start_new_session=True, preexec_fn=child_of_this_process(signal.SIGKILL),
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_healthy(server, f"{url}/health", log)
        yield url
    finally:
        helpers.kill_group(server)
        server.wait()


def _wait_until_healthy(server: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + 500  # a quiet machine needs under 10
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"no Prefect server: {log.read_text()}")


class Call:
    """A call of the command line in a copy of a process that has imported everything; has what is used of `subprocess.Popen`."""

    def __init__(self, ask, folder: Path, words: tuple, cwd: Path, variables: dict[str, str]) -> None:
        self.ask, self.args, self.returncode = ask, words, None
        self.printed = [folder / "stdout", folder / "stderr"]
        stdout, stderr = map(str, self.printed)
        self.pid = ask(words=[*map(str, words)], cwd=str(cwd), variables=variables, stdout=stdout, stderr=stderr)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.ask(poll=self.pid)
        return self.returncode

    def communicate(self, timeout: float = 550) -> list[str]:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.02)
        return [path.read_text("utf-8") for path in self.printed]


@pytest.fixture(scope="session")
def start_warm(prefect_url, helpers, tmp_path_factory):
    """Start the command line as `helpers.start` does, without the seconds that imports take, and with this session's server."""
    variables = helpers.environment(PREFECT_API_URL=prefect_url)
    command = [sys.executable, "-P", str(WARM)]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(**request: object):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield lambda *words, cwd, **more: Call(ask, tmp_path_factory.mktemp("printed"), words, cwd, variables | more)


@pytest.fixture(scope="session")
def warm(start_warm, helpers):
    """Call the command line as `cli` does, without the seconds that imports take, and with this session's server."""

    def call(*words: object, cwd: Path, seconds: float = 550, **more: str) -> subprocess.CompletedProcess:
        process = start_warm(*words, cwd=cwd, **more)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            helpers.kill_group(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A server with a bucket `posttrain`, in a process of its own: its variables as `variables`, a client as `client`."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        client = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
        )
        while not _answers(client):
            assert process.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
        yield SimpleNamespace(variables=variables, client=client, process=process)
        process.terminate()


def _answers(client) -> bool:
    try:
        client.create_bucket(Bucket="posttrain")
    except Exception:
        return False
    return True


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished store that the test may change."""
    return Path(shutil.copytree(finished.store, tmp_path / "store"))


@pytest.fixture(scope="session")
def again(tiny, warm):
    """Run the tiny recipe on a store: process and report (None when there was none)."""

    def run(store: Path, *words: str) -> SimpleNamespace:
        process = warm("run", tiny.recipe, "--store", store, "--json", *words, cwd=tiny.folder)
        printed = json.loads(process.stdout) if process.stdout else {"status": "refused"}
        report = None if printed["status"] == "refused" else RunReport.model_validate(printed)
        built = [stage.name for stage in report.stages if not stage.reused] if report else []
        return SimpleNamespace(process=process, report=report, built=built)

    return run


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
def refused(call, helpers, tmp_path):
    """Assert that `check` and `run` refuse in the same words, each of which names `said`; returns what they printed."""

    def both(recipe: Path, words: list[str], said: tuple[str, ...]) -> str:
        for verb in ("check", "run"):
            done = call(verb, recipe, *words, "--store", tmp_path / "store")
            assert done.code == 2, f"{verb}: {done.code}\n{done.out}{done.err}"
            helpers.assert_helpful(done.err, said)
            assert done.out == ""
            written = {path.name for path in (tmp_path / "store").glob("*")}
            assert written <= {"quarantine"}, f"{verb} wrote {written}"
        return done.err

    return both
