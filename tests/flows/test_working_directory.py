"""A data folder in which somebody left Python files: no command runs them, but a recipe may name a function there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import defaults
from posttrain.rewards.functions import load_function
from posttrain.runtime.child_processes import PYTHON, child_environment

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"prompt": f"How was the soup on day {n}?", "chosen": f"Warm, {n} times.", "rejected": "Cold" + ", cold" * (n % 2 * 4)}
    for n in range(40)
]
MAIN = "import sys; from flows.cli import main; main()"
TRAP = "open(__file__ + '.ran', 'w').close()\n"


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A working directory with pairs, and modules with the names of ours and of libraries."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("yaml", "tasks", "polars", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "prefect.toml").write_text('[logging]\nconfig_path = "evil.yml"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ran"))


@pytest.mark.parametrize("start", [["-P", "-c", MAIN], ["-m", "flows.cli"]])
def test_a_command_runs_nothing_of_the_folder_in_which_it_is_called(data, start):
    """As the installed command starts, where the folder is not on the path; and as Python does, which puts it there first."""
    done = subprocess.run(
        [sys.executable, *start, "validate", "pairs.jsonl", "--out", "out"], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ran(data) == []


def test_a_child_does_not_look_into_the_folder_and_finds_the_project(data):
    code = "import json, yaml, schemas, posttrain, sys; print(posttrain.__file__); print(sys.flags.safe_path)"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    for one in (code, grandchild):
        done = subprocess.run([*PYTHON, "-c", one], capture_output=True, text=True, env=child_environment(), check=True)
        assert done.stdout.split() == [str(ROOT / "posttrain" / "__init__.py"), "True"]
    assert ran(data) == []
    assert str(data) not in child_environment()["PYTHONPATH"].split(os.pathsep)


def test_a_function_of_the_folder_is_found_and_takes_no_librarys_place(data, monkeypatch):
    (data / "seca_judge.py").write_text(
        "import json\ndef reward(prompts, responses): return [json.loads('1')] * len(responses)\n"
    )
    before = list(sys.path)
    monkeypatch.delitem(sys.modules, "json")
    assert load_function("seca_judge:reward", "evaluation.judge.name")(["a"], ["b"]) == [1.0]
    assert sys.path == before
    assert ran(data) == []


def test_prefect_takes_its_logging_from_nowhere_but_itself(data, tmp_path, monkeypatch):
    """The file may name any function, and was looked for by `prefect.toml` here, and in the store that others may write."""
    for name in ("PREFECT_LOGGING_CONFIG_PATH", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    store = tmp_path / "store"
    (store / "prefect").mkdir(parents=True)
    for place in (data / "evil.yml", store / "prefect" / "logging.yml"):
        place.write_text("version: 1\nhandlers: {x: {'()': os.mkdir, path: hacked.ran}}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    code = f"import pathlib; from flows import defaults; defaults.apply(pathlib.Path({str(store)!r})); import prefect; " \
           "from prefect.logging.configuration import setup_logging; setup_logging()"  # fmt: skip
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, env=environment | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert ran(data) == []


def test_prefects_home_in_a_store_of_a_group_is_each_users_own(tmp_path):
    (tmp_path / "own").mkdir()
    assert defaults._prefect_home(tmp_path / "own") == tmp_path / "own" / "prefect"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    assert defaults._prefect_home(tmp_path / "shared") == tmp_path / "shared" / f"prefect-{os.getuid()}"
