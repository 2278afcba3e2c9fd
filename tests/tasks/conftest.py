"""The store of a chain in which nothing has run yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


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
