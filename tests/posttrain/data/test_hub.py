"""Data sets of the hub, from a small hub of this test that serves a folder as the real one does, and from its local cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("datasets", reason="the extra `hub` is not installed")
ROOT = Path(__file__).resolve().parents[3]
COMMIT, NAME = "c" * 40, "someone/pairs"
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train_prefs
    path: data/train_prefs-*
  - split: test_prefs
    path: data/test_prefs-*
  - split: train_sft
    path: data/train_sft-*
- config_name: other
  data_files: other/*.jsonl
---
"""
CHILD = """
import json, sys
from pathlib import Path
from posttrain.data.readers import read_rows
from posttrain.data.sources import resolve, source_digest
from schemas.errors import Refusal
from schemas.sources import DataSource
for field, source in json.loads(sys.argv[1]):
    try:
        files = resolve(DataSource(**source), field, Path("cache"))
    except Refusal as refusal:
        print(json.dumps(refusal.parts))
    else:
        rows = {file.name: [row for _, row in read_rows(file, print)] for file in files}
        print(json.dumps({"splits": {f.name: f.split for f in files}, "rows": rows, "digest": source_digest(files)}))
"""
FIRST_ROW = """
import json
from pathlib import Path
from posttrain.data.readers import read_rows
from posttrain.data.sources import resolve
from schemas.sources import DataSource
for file in resolve(DataSource(name="someone/pairs"), "data.preferences", Path("cache")):
    print(json.dumps([file.name, file.split, next(iter(read_rows(file, print)))]))
"""
ASKED = {
    "pairs": ("data.preferences", {}),
    "instructions": ("data.instructions", {}),
    "split": ("data.preferences", {"split": "train_sft"}),
    "config": ("data.preferences", {"config": "other"}),
    "no such split": ("data.preferences", {"split": "train"}),
    "no such config": ("data.preferences", {"config": "nothing"}),
    "no such name": ("data.preferences", {"name": "someone/else"}),
    "no such revision": ("data.preferences", {"revision": "v9"}),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A folder laid out as a data set of the hub."""
    folder = tmp_path_factory.mktemp("pairs")
    for split, rows in {"train_prefs": 3, "test_prefs": 2, "train_sft": 1}.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"prompt": f"{split} {at}"} for at in range(rows)]), path)
    (folder / "other").mkdir()
    (folder / "other" / "a.jsonl").write_text('{"prompt": "x"}\n')
    (folder / "README.md").write_text(CARD)
    return folder


class Hub(BaseHTTPRequestHandler):
    """What the clients ask of a hub for one data set: its commit, its tree, its files in ranges."""

    protocol_version = "HTTP/1.1"
    folder: Path
    sent: dict[str, int]
    """Bytes of each file that were asked for."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/{COMMIT}/"
        if path in (api, *(f"{api}/revision/{revision}" for revision in ("main", COMMIT))):
            siblings = [{"rfilename": each["path"]} for each in self._tree("") if each["type"] == "file"]
            self._say({"id": NAME, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self._say(self._tree(path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")))
        elif path.startswith(files) and (self.folder / path.removeprefix(files)).is_file():
            sent = self._send((self.folder / path.removeprefix(files)).read_bytes())
            self.sent[path.removeprefix(files)] = self.sent.get(path.removeprefix(files), 0) + sent
        else:
            missing = "EntryNotFound" if NAME in path else "RepoNotFound"
            self._say({"error": missing}, 404, {"X-Error-Code": missing, "X-Repo-Commit": COMMIT})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}").get("paths", [])
        self._say([each for each in self._tree("") if each["path"] in asked])

    def _tree(self, inside: str) -> list[dict]:
        inner = sorted((self.folder / inside).rglob("*")) if (self.folder / inside).is_dir() else []
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "path": path.relative_to(self.folder).as_posix(),
                "oid": hashlib.sha1(path.name.encode()).hexdigest(),
                "size": 0 if path.is_dir() else path.stat().st_size,
            }
            for path in inner
        ]

    def _say(self, answer: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(answer).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> int:
        wanted = self.headers.get("Range", "")
        total = len(content)
        if wanted and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            content, status = content[int(first) : int(last or total) + 1], 206
            headers = {"Content-Range": f"bytes {first}-{int(first) + len(content) - 1}/{total}", **(headers or {})}
        named = {"ETag": '"' + hashlib.sha1(content).hexdigest() + '"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self.send_response(status)
        for name, value in {**named, **(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        return 0 if self.command == "HEAD" else self.wfile.write(content)

    def log_message(self, *words) -> None:
        """Say nothing."""


def ask(home: Path, settings: dict[str, str]) -> dict[str, dict]:
    """What is said of each of `ASKED`."""
    asked = [(field, {"name": NAME} | source) for field, source in ASKED.values()]
    lines = said(home, settings, CHILD, json.dumps(asked))
    return dict(zip(ASKED, map(json.loads, lines[-len(ASKED) :]), strict=True))


def said(home: Path, settings: dict[str, str], program: str, *words: str) -> list[str]:
    """In a process of its own: the clients take address, cache and offline mode when they are imported."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    own = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home), "PYTHONPATH": paths, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=os.environ | own | settings, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextmanager
def served(folder: Path) -> Iterator[tuple[type[Hub], dict[str, str]]]:
    """A hub with the folder as its data set, and the settings by which a process reaches it."""
    hub = type("Served", (Hub,), {"folder": folder, "sent": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield hub, {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def online(repository, tmp_path_factory) -> dict[str, dict]:
    """What is said by a process that reaches the hub."""
    with served(repository) as (_, settings):
        return ask(tmp_path_factory.mktemp("online"), settings)


@pytest.fixture(scope="module")
def offline(repository, tmp_path_factory) -> dict[str, dict]:
    """What is said by a process that has the data set in its local cache alone."""
    home = tmp_path_factory.mktemp("offline")
    cache = home / f"datasets--{NAME.replace('/', '--')}"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    (cache / "snapshots" / COMMIT).symlink_to(repository)
    return ask(home, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})


def test_a_data_set_is_streamed_by_the_splits_of_its_card(online):
    """For pairs those of the name `_prefs`, of which the test split is held out."""
    found = online["pairs"]
    train, test = "data/train_prefs-00000-of-00001.parquet", "data/test_prefs-00000-of-00001.parquet"
    assert found["splits"] == {test: "holdout", train: "train"}
    assert [row["prompt"] for row in found["rows"][train]] == [f"train_prefs {at}" for at in range(3)]
    assert {row["split"] for row in found["rows"][test]} == {"holdout"}


def columns(rows: list[dict]) -> bytes:
    """As Parquet in small groups."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=10, compression="none")
    return sink.getvalue()


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("ending", "written"), [("jsonl", lines), ("jsonl.gz", lambda rows: gzip.compress(lines(rows), 0)), ("parquet", columns)]
)
def test_the_first_row_costs_a_part_of_its_file(tmp_path, ending, written):
    """Of 24 MiB: what is read comes in ranges, and no file is stored."""
    folder, home, name = tmp_path / "pairs", tmp_path / "home", f"data/test-00000-of-00001.{ending}"
    rows = [{"prompt": f"{at}", "text": os.urandom(12 << 10).hex()} for at in range(1_000)]
    (folder / "data").mkdir(parents=True)
    home.mkdir()
    (folder / name).write_bytes(written(rows))
    with served(folder) as (hub, settings):
        ((found, split, (number, row)),) = map(json.loads, said(home, settings, FIRST_ROW))
    assert (found, split, number, row["text"]) == (name, "holdout", 1, rows[0]["text"])
    assert 0 < hub.sent[name] < 16 << 20
    assert sum(each.stat().st_size for each in home.rglob("*") if each.is_file()) < 1 << 20


def test_the_local_cache_gives_the_same_files_and_digests(online, offline):
    for asked in ("pairs", "instructions", "split", "config"):
        assert online[asked] == offline[asked]


def test_split_config_and_use(offline):
    assert list(offline["split"]["rows"]) == ["data/train_sft-00000-of-00001.parquet"]
    assert list(offline["instructions"]["rows"]) == ["data/train_sft-00000-of-00001.parquet"]
    assert offline["config"]["rows"] == {"other/a.jsonl": [{"prompt": "x"}]}


@pytest.mark.parametrize("reached", ["online", "offline"])
@pytest.mark.parametrize("asked", [asked for asked in ASKED if asked.startswith("no such")])
def test_what_is_not_there_is_refused_with_what_is(request, reached, asked):
    refusal = request.getfixturevalue(reached)[asked]
    assert refusal["where"].startswith("data.preferences")
    said = "train_prefs, test_prefs, train_sft" if asked == "no such split" else "correct name, config or revision"
    assert said in refusal["allowed"] + refusal["remedy"]


def test_splits_in_several_formats_have_a_remedy(tmp_path):
    folder, home = tmp_path / "pairs", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    for name, written in (("train.jsonl", lines), ("test.parquet", columns)):
        (folder / name).write_bytes(written([{"prompt": "q"}]))
    with served(folder) as (_, settings):
        (line,) = said(home, settings, CHILD, json.dumps([["data.preferences", {"name": NAME}]]))
    refusal = json.loads(line)
    assert f"{NAME}, which has splits in several formats: " in refusal["found"]
    assert refusal["remedy"] == "name the config of one of them, or download its files and name their folder"
