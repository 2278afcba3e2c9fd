"""One machine's servers and workers, and everything registered on them by `posttrain deploy`."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows.serving.services import Service, stop
from flows.serving.site import free_port, mlflow_service, prefect_service, worker_service

QUICK = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}  # a schedule that is set now fires in the next minute


@pytest.fixture(scope="session")
def small(tiny, tmp_path_factory) -> SimpleNamespace:
    """The tiny recipe as another one: on a store with the finished run it has a stage to build on each pool, and no more.

    The contract has another limit that no row breaks: `validate` is built, and what it writes is the same for the stages after.
    """
    folder = tmp_path_factory.mktemp("small")
    document = tiny.document | {"name": "small", "registry": {"model": "small"}, "tracking": {"experiment": "small"}}
    document["data"] = document["data"] | {"checks": {"max_drop_rate": 0.21}}
    document["evaluation"] = document["evaluation"] | {"max_new_tokens": 6}
    (folder / "small.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return SimpleNamespace(recipe=folder / "small.yaml", folder=folder)


@pytest.fixture(scope="session")
def start_site(helpers, cli):
    """A site on a store, inside a `with`: two servers, two workers, and what `posttrain deploy` registers of a folder."""

    @contextmanager
    def start(store: Path, recipes: Path, **variables: str):
        ports = free_port(0), free_port(0)
        addresses = {"prefect": f"http://127.0.0.1:{ports[0]}/api", "mlflow": f"http://127.0.0.1:{ports[1]}"}
        clients = {"PREFECT_API_URL": addresses["prefect"], "MLFLOW_TRACKING_URI": addresses["mlflow"]}
        with _as_environment(helpers.environment(**variables)):
            servers = [prefect_service(store, ports[0]), mlflow_service(store, ports[1])]
            workers = [worker_service(store, pool, addresses, limit) for pool, limit in (("cpu", None), ("gpu", 1))]
        try:
            _start(servers)
            deployed = cli("deploy", "--store", store, "--recipes", recipes, cwd=recipes, **clients)
            assert deployed.returncode == 0, deployed.stderr
            _start(workers)
            call = _calling(cli, recipes, clients)
            yield SimpleNamespace(store=store, servers=servers, workers=workers, clients=clients, call=call, recipes=recipes)
        finally:
            stop([*servers, *workers], seconds=30)

    return start


@pytest.fixture(scope="session")
def site(finished, small, start_site, tmp_path_factory):
    """A site on a copy of the finished store."""
    store = Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("site") / "store"))
    with start_site(store, small.folder, **QUICK) as started:
        yield started


@pytest.fixture
def api(site, monkeypatch):
    """Ask the site's Prefect server: `api(lambda client: ...)`."""
    from prefect.client.orchestration import SyncPrefectClient

    def ask(call):
        with SyncPrefectClient(site.clients["PREFECT_API_URL"]) as client:
            return call(client)

    return ask


@contextmanager
def _as_environment(variables: dict[str, str]):
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start(services: list[Service]) -> None:
    for each in services:
        each.start()
    for each in services:
        each.wait_until_ready()


def _calling(cli, folder: Path, clients: dict[str, str]):
    return lambda *words, **more: cli(*words, cwd=folder, **clients, **more)
