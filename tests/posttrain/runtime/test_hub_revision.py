"""Which commit a branch of the hub means: as a hub says (a small server of this test), as its cache says, or as written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ONLINE, CACHED = "a" * 40, "b" * 40


class Hub(BaseHTTPRequestHandler):
    """Knows the branch `main` of `someone/model`, and no other repository."""

    def do_GET(self) -> None:
        known = self.path.partition("?")[0] == "/api/models/someone/model/revision/main"
        answer = {"id": "someone/model", "sha": ONLINE} if known else {"error": "Repository not found"}
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *words) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub():
    """The address of a running hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def commit_of(tmp_path):
    """Ask in a process of its own: the client reads address, cache and offline mode when it is imported."""
    cache = tmp_path / "models--someone--model" / "refs"
    cache.mkdir(parents=True)
    (cache / "main").write_text(CACHED)

    def ask(name: str, revision: str, **variables: str) -> str:
        code = "import sys; from posttrain.runtime.hub_revision import commit_of; print(commit_of(*sys.argv[1:]))"
        settings = {
            "HF_HUB_CACHE": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-c", code, name, revision], env=os.environ | settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return ask


def test_a_branch_is_the_commit_that_the_hub_names(commit_of, hub):
    assert commit_of("someone/model", "main", HF_ENDPOINT=hub) == ONLINE


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "away"])
def test_without_the_hub_its_cache_is_asked_and_else_the_revision_stays_as_written(commit_of, variables):
    assert commit_of("someone/model", "main", **variables) == CACHED
    assert commit_of("someone/model", "v1", **variables) == "v1"
    assert commit_of("someone/other", "main", **variables) == "main"


def test_what_the_hub_does_not_know_stays_as_written(commit_of, hub):
    """Loading it will say so: here it is only a key."""
    assert commit_of("someone/other", "main", HF_ENDPOINT=hub) == "main"
    assert commit_of("not/a/name", "main", HF_ENDPOINT=hub) == "main"


def test_a_commit_is_not_asked_about(commit_of, hub):
    assert commit_of("someone/other", CACHED, HF_ENDPOINT=hub) == CACHED
