"""A push to the hub against a small server that speaks what the hub's client asks: what leaves, under which token, and when."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from posttrain.pipeline.tracking_check import check_hub
from schemas.errors import Refusal
from tasks import hub_push, registry

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "house/reviews"
PUSH = """
import sys
from pathlib import Path
from tasks.hub_push import _upload
print(_upload(Path(sys.argv[1]), sys.argv[2], "house version 1"))
"""


class Hub(BaseHTTPRequestHandler):
    """Keeps the files of commits; `calls` are (method and path, token)."""

    calls: ClassVar[list] = []
    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[dict]] = []

    @property
    def address(self) -> str:
        """Of the repository."""
        return f"http://{self.headers['Host']}/{REPOSITORY}"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.calls.append((f"POST {self.path}", self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            self.asked.append(json.loads(body))
            return self.answer({"url": self.address})
        if self.path.endswith("/preupload/main"):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]]
            return self.answer({"files": files})
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"{self.address}/commit/abc", "commitOid": "abc"})
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.calls.append((f"GET {self.path}", self.headers.get("Authorization")))
        self.answer({"id": REPOSITORY, "siblings": []})

    def answer(self, document: dict) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Says nothing."""


@pytest.fixture
def hub():
    """A fresh class with nothing in it, and its address."""
    kind = type("Hub", (Hub,), {"calls": [], "files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_checkpoint_and_card_go_to_a_private_repository_in_the_name_of_the_token(hub, tmp_path):
    kept, address = hub
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "secret.bin").write_text("stays")
    (tmp_path / "README.md").write_text("# reviews\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    given = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_of_the_environment", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PUSH, str(tmp_path), REPOSITORY], capture_output=True, text=True, timeout=300,
        env=clean | given,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{address}/{REPOSITORY}/commit/abc"
    assert kept.files == {
        "README.md": b"# reviews\n", "config.json": b'{"model_type": "llama"}', "model.safetensors": b"\0" * 100,
    }  # fmt: skip
    [asked] = kept.asked
    assert (asked["organization"], asked["name"], asked["visibility"]) == ("house", "reviews", "private")
    writing = {token for call, token in kept.calls if call.startswith("POST /api/models") or call == "POST /api/repos/create"}
    assert writing == {"Bearer hf_of_the_environment"}


def test_a_version_is_pushed_once_and_one_that_fails_is_tried_again(chain, new_version, monkeypatch, caplog):
    """The address of the commit is a tag of the version."""
    chain.store.build(chain.identity("register"), lambda out: _exported(out))
    asked = chain.recipe.registry.model_copy(update={"hub": REPOSITORY})
    monkeypatch.setattr(chain, "recipe", chain.recipe.model_copy(update={"registry": asked}))
    version, client, pushed = new_version(chain, "k"), registry.client_of(chain), []

    def fails(*arguments):
        raise ConnectionError("the hub is away")

    monkeypatch.setattr(hub_push, "_upload", fails)
    assert hub_push.push(chain, client, version) is None
    assert "the hub is away" in caplog.text
    monkeypatch.setattr(hub_push, "_upload", lambda *given: pushed.append(given[1:]) or "http://hub/commit/abc")
    assert hub_push.push(chain, client, version) == "http://hub/commit/abc"
    assert hub_push.push(chain, client, version) is None
    assert pushed == [(REPOSITORY, "house version 1")]
    assert client.get_model_version("house", "1").tags[hub_push.TAG] == "http://hub/commit/abc"


def _exported(out):
    from posttrain.runtime.store import Built

    (out / "checkpoint").mkdir()
    (out / "checkpoint" / "config.json").write_text("{}")
    return Built({}, {"checkpoint": "checkpoint"})


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}, "no HF_TOKEN in the environment"),
        ({"HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE=1"),
        ({"HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0"}, None),
    ],
)
def test_a_push_that_cannot_be_meant_is_refused_before_the_run(a_recipe, tmp_path, monkeypatch, variables, told):
    evaluation = {"judge": {"name": "posttrain.data.samples:sentiment"}}
    recipe = a_recipe(tmp_path, evaluation=evaluation, registry={"model": "house", "hub": REPOSITORY})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if told is None:
        return check_hub(recipe)
    with pytest.raises(Refusal, match=told) as refused:
        check_hub(recipe)
    assert refused.value.where == "registry.hub"
    check_hub(a_recipe(tmp_path))
