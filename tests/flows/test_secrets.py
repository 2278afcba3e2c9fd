"""Secrets that the environment gives, planted in every place that takes one: after a whole run none is found anywhere."""

from __future__ import annotations

import os
import stat
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

SECRETS = {  # as the recipe names them
    "PLANTED_DATABASE": "hunter2-database",
    "PLANTED_TOKEN": "hunter2-token",
    "PLANTED_ROWS": "hunter2-rows",
}
BY_NAME = {"MLFLOW_TRACKING_PASSWORD": "hunter2-mlflow", "AWS_SECRET_ACCESS_KEY": "hunter2-aws", "HF_TOKEN": "hunter2-hub"}
PLANTED = b"hunter2"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def served(tiny):
    """The address of a web server with the tiny recipe's rows."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tiny.folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def model(finished) -> str:
    """A checkpoint, so that a run has no more to do than align, evaluate and register it."""
    return next(stage.outputs["checkpoint"] for stage in finished.report.stages if stage.name == "register")


def planted(tiny, served: str, folder, database: str, model: str) -> Path:
    """A recipe of which a database, rows on a web server and a token are secret."""
    data = {
        "instructions": f"{served}/instructions.jsonl?access_token=${{PLANTED_TOKEN}}",
        "preferences": f"{served}/preferences.jsonl?sig=${{PLANTED_ROWS}}",
        "holdout": 0.2,
    }
    kept = {name: tiny.document[name] for name in ("name", "seed", "registry")}
    sections = {"alignment": tiny.document["alignment"] | {"epochs": 1}, "evaluation": tiny.document["evaluation"]}
    document = kept | sections | {"model": {"source": "local", "path": model}, "data": data, "tracking": {"uri": database}}
    (folder / "planted.yaml").write_text(yaml.safe_dump(document))
    return folder / "planted.yaml"


def places_of(folder) -> list[str]:
    """Files below a folder in which a secret stands; the secret database's own name is not asked for."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and PLANTED in path.read_bytes()]


def test_a_whole_run_leaves_no_secret_in_store_databases_reports_or_terminal(tiny, served, cli, tmp_path, model):
    store, apart = tmp_path / "store", tmp_path / "apart"
    apart.mkdir()
    recipe = planted(tiny, served, tmp_path, f"sqlite:///{apart}/${{PLANTED_DATABASE}}.db", model)
    done = cli("run", recipe, "--store", store, cwd=tmp_path, seconds=550, PREFECT_LOGGING_LEVEL="DEBUG", **SECRETS, **BY_NAME)
    assert done.returncode == 0, done.stderr
    assert (apart / "hunter2-database.db").exists(), "the environment was not asked"
    assert "${PLANTED_DATABASE}" in done.stdout
    assert PLANTED.decode() not in done.stdout + done.stderr
    assert (store / "prefect" / "prefect.db").exists()
    assert stat.S_IMODE((store / "prefect").stat().st_mode) == 0o700
    assert places_of(tmp_path) == []


def test_what_fails_says_no_secret(tiny, served, cli, tmp_path):
    """The tracking server is away, which MLflow says with its address; the web server has no such rows, which aiohttp says."""
    uri = "http://tracker:${PLANTED_DATABASE}@127.0.0.1:9"
    recipe = planted(tiny, served, tmp_path, uri, "nowhere")
    away = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    registered = ["--set", "model={source: registry, uri: models:/a/1}"]
    for words in (["run", recipe, *registered], ["lineage", "models:/a@champion", "--tracking-uri", uri],
                  ["validate", f"{served}/none.jsonl?sig=${{PLANTED_ROWS}}"]):  # fmt: skip
        store = [] if words[0] == "validate" else ["--store", tmp_path / "store"]
        done = cli(*words, *store, cwd=tmp_path, **SECRETS, **BY_NAME, **away)
        assert done.returncode != 0, f"{words}: {done.stderr}"
        assert "which holds a credential" not in done.stderr, "it was to be opened"
        assert PLANTED.decode() not in done.stdout + done.stderr
    assert places_of(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "address"),
    [
        ("tracking.uri", "postgresql://u:hunter2@db/x"),
        ("data.preferences", "https://h/x.jsonl?sig=hunter2"),
        ("data.corpus", "s3://key:hunter2@bucket/x"),
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(refused, tiny, field, address):
    said = refused(tiny.recipe, ["--set", f"{field}={address}"], (f"{field}: found", "which holds a credential", "${NAME}"))
    assert "hunter2" not in said


def test_the_other_commands_refuse_one_too(call):
    for words in (
        ["validate", "https://h/x.jsonl?token=hunter2"],
        ["lineage", "models:/a/1", "--tracking-uri", "http://u:hunter2@h"],
    ):
        done = call(*words)
        assert done.code == 2, done.err
        assert "which holds a credential" in done.err
        assert "hunter2" not in done.err


def test_the_environment_of_the_tests_has_none():
    assert not set(SECRETS) & set(os.environ)
