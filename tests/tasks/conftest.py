"""The store of a chain in which nothing has run yet."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.runtime.store import Built, Store
from schemas.recipe import Recipe
from schemas.results import RunReport

BEATS_BASE = {"win_rate_vs_base": 0.9, "win_rate_vs_base_low": 0.8, "win_rate_vs_base_high": 1.0}


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


@pytest.fixture
def a_chain(root):
    """Makes a chain whose recipe registers `house`, with finished stages of which the last has measured the given numbers."""

    def made(promote_on: str | None = "win_rate_vs_base", measured: dict[str, float] = BEATS_BASE) -> Chain:
        (root.parent / "model").mkdir(exist_ok=True)
        (root.parent / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
        recipe = {
            "name": "house",
            "model": {"source": "local", "path": str(root.parent / "model")},
            "data": {"preferences": str(root.parent / "pairs.jsonl")},
            "alignment": {"algorithm": "dpo"},
            "evaluation": {"judge": {"name": "posttrain.data.samples:sentiment"}},
            "registry": {"model": "house", "promote_on": promote_on},
        }
        chain = Chain(Recipe.model_validate(recipe), Store(root))
        for stage, output, numbers in (
            ("validate", "preferences", {}),
            ("align", "adapter", {}),
            ("evaluate", "samples", measured),
        ):
            chain.store.build(chain.identity(stage), lambda out, name=output, found=numbers: _built(out, name, found))
        return chain

    return made


@pytest.fixture
def chain(a_chain) -> Chain:
    return a_chain()


@pytest.fixture
def new_version():
    """Makes a version as `log_version` does, without the artifacts."""
    from tasks import registry

    def made(chain: Chain, key: str):
        client, name = registry.client_of(chain), chain.recipe.registry.model
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        return client.create_model_version(name, chain.store.root.as_uri(), tags={"posttrain.key": key})

    return made


def _built(out, output: str, metrics: dict[str, float]) -> Built:
    (out / output).write_text(output)
    return Built(metrics, {output: output})


@pytest.fixture
def a_recipe():
    """Makes a recipe with one preference pair in a file of a folder."""

    def made(folder, **sections) -> Recipe:
        (folder / "pairs.jsonl").write_text('{"prompt": "How was the soup?", "chosen": "Warm.", "rejected": "Cold."}\n')
        document = {
            "name": "house",
            "model": {"source": "local", "path": str(folder)},
            "data": {"preferences": str(folder / "pairs.jsonl")},
            "alignment": {"algorithm": "dpo"},
        }
        return Recipe.model_validate(document | sections)

    return made


@pytest.fixture
def unbuilt(tmp_path, root, a_recipe) -> Chain:
    """A chain of that recipe, in which nothing has run yet."""
    return Chain(a_recipe(tmp_path), Store(root))


@pytest.fixture
def mlflow_of():
    """A client of a chain's tracking server."""
    from tasks import tracking

    return lambda chain: tracking.connect(tracking.tracking_uri(chain.recipe, chain.store.root), chain.store.root)


@pytest.fixture
def build():
    """Makes a finished `validate` stage, as its task builds one."""

    def built(chain: Chain, metrics: dict[str, float], curve: str = ""):
        def make(out):
            (out / "summary.json").write_text("{}")
            (out / "curve.jsonl").write_text(curve)
            return Built(metrics, {"summary": "summary.json"})

        return chain.store.build(chain.identity("validate"), make)

    return built


@pytest.fixture
def report_of():
    """Makes the report of a run without stages, and its page."""

    def made(run_id: str, folder, status: str = "finished") -> RunReport:
        page = folder / "report.html"
        page.write_text("<html>")
        return RunReport(run_id=run_id, status=status, seconds=1, stages=(), gates=(), model=None, report=page, promotion="")

    return made


@pytest.fixture
def unreachable(monkeypatch) -> str:
    """The address of a tracking server that is away, asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
