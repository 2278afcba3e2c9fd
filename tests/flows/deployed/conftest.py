"""One machine's servers and workers, and everything registered on them by `posttrain deploy`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows.server import free_port
from flows.serving.services import Service, stop
from flows.serving.site import mlflow_service, prefect_service, worker_service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGES = {"old": "", "new": "/v2"}
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
    def start(store: Path, recipes: Path, databases=None, address: str = "", own: Callable = lambda pool: {}, **variables: str):
        """`address` is of the store where that is no folder, and `own(pool)` are variables that a worker has to itself."""
        ports = free_port(), free_port()
        addresses = {"prefect": f"http://127.0.0.1:{ports[0]}/api", "mlflow": f"http://127.0.0.1:{ports[1]}"}
        clients = {"PREFECT_API_URL": addresses["prefect"], "MLFLOW_TRACKING_URI": addresses["mlflow"]}
        with _as_environment(helpers.environment(**variables)):
            servers = [prefect_service(store, ports[0]), mlflow_service(store, ports[1])]
            workers = [worker_service(store, pool, addresses, limit) for pool, limit in (("cpu", None), ("gpu", 1))]
        for worker, pool in zip(workers, ("cpu", "gpu"), strict=True):
            worker.environment |= own(pool)
        if databases:
            _keep_in(databases, *servers)
        try:
            _start(servers)
            deployed = cli("deploy", "--store", address or store, "--recipes", recipes, cwd=recipes, **clients, **variables)
            assert deployed.returncode == 0, deployed.stderr
            _start(workers)
            call = _calling(cli, recipes, clients)
            yield SimpleNamespace(store=store, servers=servers, workers=workers, clients=clients, call=call, recipes=recipes)
        finally:
            stop([*servers, *workers], seconds=30)

    return start


def _keep_in(databases, prefect: Service, mlflow: Service) -> None:
    """Have servers keep what they know in PostgreSQL, as `deployments/compose.yaml` does."""
    prefect.environment["PREFECT_API_DATABASE_CONNECTION_URL"] = databases.address("prefect", "asyncpg")
    mlflow.command = list(mlflow.command)
    mlflow.command[mlflow.command.index("--backend-store-uri") + 1] = databases.address("mlflow", "psycopg2")


@pytest.fixture(scope="session")
def site(finished, small, start_site, tmp_path_factory):
    """A site on a copy of the finished store."""
    store = Path(shutil.copytree(finished.store, tmp_path_factory.mktemp("site") / "store"))
    with start_site(store, small.folder, **QUICK) as started:
        yield started


@pytest.fixture
def client(prefect_url):
    """A client of the session's Prefect server, which is this process's for the time."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def api(site):
    """Ask the site's Prefect server: `api(lambda client: ...)`."""
    from prefect.client.orchestration import SyncPrefectClient

    def ask(call):
        with SyncPrefectClient(site.clients["PREFECT_API_URL"]) as client:
            return call(client)

    return ask


@pytest.fixture
def ended(api):
    """The run, once it has ended."""

    def wait(run_id: str, seconds: float = 1500):  # pytest ends a test before, each by its own limit
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            run = api(lambda client: client.read_flow_run(run_id))
            if run.state and run.state.is_final():
                return run
            time.sleep(1)
        raise AssertionError(f"run {run_id} has not ended")

    return wait


@pytest.fixture
def stages_of(api):
    """Flow runs of the stages that a run has dispatched, by stage."""
    from prefect.client.schemas.filters import FlowRunFilter

    def stages(flow_run: str) -> dict:
        wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [flow_run]}})
        found = api(lambda client: client.read_flow_runs(flow_run_filter=wanted))
        return {tag.partition(":")[2]: run for run in found for tag in run.tags if tag.startswith("stage:")}

    return stages


@pytest.fixture
def next_scheduled(api):
    """The first run that a schedule has started, once it has ended."""
    from prefect.client.schemas.filters import FlowRunFilter

    def wait(seconds: float = 240):
        wanted = FlowRunFilter.model_validate({"tags": {"all_": ["auto-scheduled"]}})
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            runs = api(lambda client: client.read_flow_runs(flow_run_filter=wanted))
            if over := [run for run in runs if run.state and run.state.is_final()]:
                return over[0]
            time.sleep(1)
        raise AssertionError("no scheduled run ended")

    return wait


class Form:
    """The form of a deployment, with its fields by their labels."""

    def __init__(self, page) -> None:
        self.page, self.errors = page, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def choose(self, label: str, tab: str, among: str = "") -> None:
        """Click a tab of a field; `among` is the label of the section in which the field is."""
        self._after(label, f"*[self::button or self::label][normalize-space(.)='{tab}']", among).click()

    def put(self, label: str, value: str, among: str = "") -> None:
        """Write into the box of a field."""
        self._after(label, "*[self::input or self::textarea]", among).fill(value)

    def submit(self) -> str:
        """Send it, again while the server is busy, as one on SQLite is at times; the id of the run."""
        for _ in range(5):
            with self.page.expect_response("**/create_flow_run") as answer:
                self.page.get_by_role("button", name="Submit").click()
            if answer.value.status != 503:
                break
        assert answer.value.status == 201, answer.value.text()
        return answer.value.json()["id"]

    def _after(self, label: str, what: str, among: str):
        """The first `what` after the label, of that label which is the first after `among`."""
        path = ""
        for text in filter(None, (among, label)):
            path = f"({path}//*[normalize-space(.)='{text}' or normalize-space(.)='{text} (Optional)'])[1]/following::"
            path = path.replace("following:://", "following::")
        return self.page.locator(f"xpath=({path}{what})[1]")


@pytest.fixture
def browser():
    """Headless Chromium; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_form(site, api, browser):
    """The form of the deployment of a recipe, in the old or the new pages."""

    def open_form(recipe: str, pages: str) -> Form:
        deployment = api(lambda client: client.read_deployment_by_name(f"post-training/{recipe}"))
        root = site.clients["PREFECT_API_URL"].removesuffix("/api")
        form = Form(browser.new_page(viewport={"width": 1300, "height": 1600}))
        form.page.goto(f"{root}{PAGES[pages]}/deployments/deployment/{deployment.id}/run")
        form.page.wait_for_selector("text=Beta", timeout=120_000)
        return form

    return open_form


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
