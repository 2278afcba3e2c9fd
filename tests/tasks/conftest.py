"""Lends the finished run of `tests/flows/conftest.py` to the tests of tasks; it is made once, whichever folder asks first."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "flows" / "conftest.py"
_spec = importlib.util.spec_from_file_location("fixtures_of_flows", SOURCE)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

tiny, cli, finished, client_of = _fixtures.tiny, _fixtures.cli, _fixtures.finished, _fixtures.client_of


@pytest.fixture(scope="session")
def _empty_tracking(tmp_path_factory) -> Path:
    """A folder `tracking` with the tables of MLflow and no run: they take two seconds to make."""
    from tasks.tracking import connect

    root = tmp_path_factory.mktemp("tracking")
    connect(f"sqlite:///{root / 'tracking' / 'mlflow.db'}", root)
    return root / "tracking"


@pytest.fixture
def root(tmp_path, _empty_tracking) -> Path:
    """The root of a store in which no stage has run."""
    shutil.copytree(_empty_tracking, tmp_path / "store" / "tracking")
    return tmp_path / "store"
