"""A process that a worker has started for a run, and a real Prefect server that is away while the run begins."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Pending

from flows.deployed import patience
from flows.deployed.names import STORE
from flows.server import free_port
from flows.serving.services import stop
from flows.serving.site import prefect_service
from posttrain.runtime.liveness import is_dead, read_note
from tasks.exchange import start_note

FLOW = """
from pathlib import Path
from prefect import flow, task

@task
def work():
    return 1

@flow(name="begun", persist_result=False)
def begun(folder: str):
    work()
    Path(folder, "begun").open("a").write("x")
"""


@pytest.fixture(scope="module")
def server(helpers, tmp_path_factory):
    """A server of one's own that can be stopped and started: with a deployment, and nothing else."""
    home, port = tmp_path_factory.mktemp("server"), free_port()
    (home / "begun_here.py").write_text(FLOW)
    service = prefect_service(home, port)
    service.start()
    service.wait_until_ready()
    url = f"http://127.0.0.1:{port}/api"
    with SyncPrefectClient(url) as client:
        flow = client.create_flow_from_name("begun")
        deployment = client.create_deployment(flow_id=flow, name="begun", entrypoint="begun_here:begun")
    yield SimpleNamespace(service=service, url=url, port=port, deployment=deployment, home=home)
    stop([service], seconds=20)


@pytest.fixture
def taken(server, tmp_path):
    """A run as its worker leaves it when it starts a process."""
    with SyncPrefectClient(server.url) as client:
        parameters = {"folder": str(tmp_path)}
        return client.create_flow_run_from_deployment(server.deployment, parameters=parameters, state=Pending()).id


@pytest.fixture
def begin(helpers, server, taken, tmp_path):
    """Start the process of the run; its output is in `said`."""
    processes = []

    def begin(url: str = server.url, **more: str):
        variables = helpers.environment(
            PREFECT_API_URL=url, PREFECT__FLOW_RUN_ID=str(taken), PREFECT_HOME=str(tmp_path / "home"), DO_NOT_TRACK="1",
            PREFECT_CLIENT_MAX_RETRIES="1", PREFECT_LOGGING_EXTRA_LOGGERS="flows", **{STORE: str(tmp_path / "store")}, **more,
        )  # fmt: skip
        variables["PYTHONPATH"] += os.pathsep + str(server.home)
        said = tmp_path / "said"
        with said.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.deployed.engine"], env=variables, stdout=stream, stderr=stream, cwd=tmp_path
            )
        processes.append(process)
        return SimpleNamespace(process=process, said=said.read_text)

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def wait_for(met, process=None, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert process is None or process.process.poll() is None, process.said()
        assert time.monotonic() < end
        time.sleep(0.1)


def state(server, run) -> StateType:
    with SyncPrefectClient(server.url) as client:
        return client.read_flow_run(run).state.type


def waiting(started) -> bool:
    return "Prefect does not answer, waiting" in started.said()


def test_a_process_that_finds_no_server_waits_and_its_run_completes_once_there_is_one(server, taken, begin, tmp_path):
    stop([server.service], seconds=20)
    started = begin()
    wait_for(lambda: waiting(started), started)
    note = start_note(tmp_path / "store", str(taken))
    assert not is_dead(note, read_note(note))
    server.service.start()
    server.service.wait_until_ready()
    assert started.process.wait(300) == 0, started.said()
    assert state(server, taken) == StateType.COMPLETED
    assert (tmp_path / "begun").read_text() == "x"
    assert "Prefect answers again, after" in started.said()
    assert "Traceback" not in started.said()
    assert not note.exists()


class Gate:
    """Passes connections on to a server, some of them; then nobody listens for a while, as when the server is started again."""

    def __init__(self, port: int, connections: int, seconds: float) -> None:
        self.target, self.port, self.left, self.seconds = port, free_port(), connections, seconds
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        self._listen(self.left)
        time.sleep(self.seconds)
        self._listen(1_000_000)

    def _listen(self, count: int) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(0.2)
            opened = []
            while len(opened) < count and not self.over.is_set():
                try:
                    near = listener.accept()[0]
                except TimeoutError:
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                opened += [(near, far)]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()
        if count < 1_000_000:
            time.sleep(0.3)  # for the last answer
            for one in (each for pair in opened for each in pair):
                one.close()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for each in (one, other):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("connections", [1, 2, 3, 4])
def test_a_server_that_goes_away_between_the_first_calls_is_waited_for(server, taken, begin, tmp_path, connections):
    """Prefect's engine opens a client for each of its first calls."""
    gate = Gate(server.port, connections, 6)
    try:
        started = begin(f"http://127.0.0.1:{gate.port}/api")
        assert started.process.wait(300) == 0, started.said()
    finally:
        gate.over.set()
    assert waiting(started), started.said()
    assert state(server, taken) == StateType.COMPLETED
    assert (tmp_path / "begun").read_text() == "x"


def test_the_wait_has_a_bound_after_which_the_note_says_that_the_process_is_dead(taken, begin, tmp_path):
    started = begin(f"http://127.0.0.1:{free_port()}/api", **{patience.VARIABLE: "3"})
    assert started.process.wait(300) == 1
    assert "waiting for up to 3 s" in started.said()
    note = start_note(tmp_path / "store", str(taken))
    assert is_dead(note, read_note(note))


def test_a_process_that_waits_ends_at_once_when_it_is_told_to(taken, begin, tmp_path):
    started = begin(f"http://127.0.0.1:{free_port()}/api")
    wait_for(lambda: waiting(started), started)
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(30) == 128 + signal.SIGTERM
    note = start_note(tmp_path / "store", str(taken))
    assert is_dead(note, read_note(note))
