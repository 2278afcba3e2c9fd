"""Our own Prefect server answers nobody but the run that started it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows.defaults import _prefect_home
from flows.server import private_folder

ROOT = Path(__file__).resolve().parents[2]
# Starts a server as a run does, and asks it as a stranger, as the run, and as a web page would.
CHILD = """
import base64, json, os, sys, urllib.error, urllib.request
from pathlib import Path
from flows import defaults
from flows.inline import _make_prefect_home
from flows.server import ensure_server
root = Path(sys.argv[1]); root.mkdir()
defaults.apply(root)
_make_prefect_home(root)
ensure_server(lambda: None)
def ask(path, **headers):
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, b"{}", {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)
own = "Basic " + base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
wrong = "Basic " + base64.b64encode(b"posttrain:posttrain").decode()
page = ask("/flow_runs/filter", Authorization=own, Origin="https://evil.example")[1]
print(json.dumps({
    "stranger": ask("/flow_runs/filter")[0], "wrong": ask("/flow_runs/filter", Authorization=wrong)[0],
    "own": ask("/flow_runs/filter", Authorization=own)[0], "cors": page.get("access-control-allow-origin"),
    "mode": oct((root / "prefect").stat().st_mode & 0o777),
}))
"""


def test_a_stranger_on_this_machine_and_a_web_page_are_turned_away(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "store")],
        env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"stranger": 401, "wrong": 401, "own": 200, "cors": None, "mode": "0o700"}


def test_a_folder_that_others_could_read_is_closed(tmp_path):
    (tmp_path / "prefect").mkdir(mode=0o755)
    private_folder(tmp_path / "prefect")
    assert stat.S_IMODE((tmp_path / "prefect").stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_the_second_user_of_a_store_has_a_folder_of_their_own(tmp_path):
    assert _prefect_home(tmp_path) == tmp_path / "prefect"
    (tmp_path / "prefect").mkdir()
    assert _prefect_home(tmp_path) == tmp_path / "prefect"
    os.chown(tmp_path / "prefect", 12345, 12345)
    assert _prefect_home(tmp_path) == tmp_path / f"prefect-{os.getuid()}"
