"""Whether a tracking server answers, against real sockets: what counts as an answer, and who waits how long."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from posttrain.runtime.progress import Quiet, reporting
from schemas.errors import Refusal
from tasks import availability
from tasks.availability import TrackingAway, problem, require_answer, wait_for_answer


@pytest.fixture
def server():
    """A server whose answer a test sets: `status`, `asked` (the paths) and `address`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            self.send_response(served.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as served:
        served.asked, served.status = [], 200
        served.address = f"127.0.0.1:{served.server_port}"
        Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("status", [200, 401, 404, 500])
@pytest.mark.parametrize("user", ["", "tracker:pass@word@", "tracker:p%40ss@"])
def test_any_answer_is_one_with_a_password_in_the_address_too(server, status, user):
    server.status = status
    assert problem(f"http://{user}{server.address}/mlflow/") is None
    assert server.asked == ["/mlflow/health"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_finds_nobody_is_no_answer(server, status):
    server.status = status
    assert problem(f"http://{server.address}") == f"status {status}"


@pytest.mark.parametrize("uri", ["http://tracker:hunter2@{}", "postgresql+psycopg2://tracker:hunter2@{}/mlflow"])
def test_where_nobody_listens_is_said_without_the_password(nobody, uri):
    with pytest.raises(TrackingAway, match="does not answer") as away:
        require_answer(uri.format(nobody))
    assert "hunter2" not in str(away.value)


def test_a_database_that_listens_answers(server):
    assert problem(f"postgresql+psycopg2://tracker:hunter2@{server.address}/mlflow") is None
    assert server.asked == []


@pytest.mark.parametrize("uri", ["sqlite:////store/mlflow.db", "databricks://profile", "file:///runs", "http://127.0.0.1:port"])
def test_what_is_no_server_of_ours_to_ask_is_left_to_mlflow(uri):
    assert problem(uri) is None


def test_a_server_is_asked_once_in_a_while(server, monkeypatch):
    uri = f"http://{server.address}"
    for _ in range(3):
        require_answer(uri)
    assert len(server.asked) == 1
    monkeypatch.setattr(availability, "AGAIN_SECONDS", 0.0)
    server.status = 503
    with pytest.raises(TrackingAway):
        require_answer(uri)


def test_who_needs_it_waits_and_is_told_how_to_go_on(nobody, server, monkeypatch):
    class Heard(Quiet):
        def note(self, sentence: str) -> None:
            said.append(sentence)

    said: list[str] = []
    monkeypatch.setattr(availability, "AGAIN_SECONDS", 0.05)
    with reporting(Heard()):
        with pytest.raises(Refusal, match="all finished stages are kept"):
            wait_for_answer(f"http://{nobody}", 0.2, "the registry")
        assert len(said) == 1
        assert said[0].startswith("waiting for MLflow, the registry needs it: ")
        wait_for_answer(f"http://{server.address}", 0.2, "the registry")
    assert len(said) == 1
