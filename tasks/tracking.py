"""MLflow runs: one parent per recipe run, one nested run per built stage. A failure here is a warning, never the end of a run."""

from __future__ import annotations

import functools
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from posttrain.runtime.locks import locked
from posttrain.runtime.trees import is_shared
from posttrain.runtime.writing import write_atomically
from schemas.addresses import opened
from schemas.recipe import Recipe
from schemas.results import RunReport
from schemas.secrets import without_credentials
from tasks.availability import require_answer
from tasks.open_runs import forget, marked, marker_of, run_folder
from tasks.run_tags import run_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "MLFLOW_TRACKING_URI"
_set_here: set[str] = set()  # values of the variable that are not the user's
DATABASE, ARTIFACTS = Path("tracking") / "mlflow.db", Path("tracking") / "artifacts"  # in a store
PARENT = "mlflow-run"  # in the folder of a run: its MLflow run, where that has another id
PARAM_LENGTH = 6000  # MLflow's limit of a parameter's value


def never_fatal(function: Callable[P, T]) -> Callable[P, T | None]:
    """Turn any failure of a logging call into a warning: hours of training must not die of a full tracking disk."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            log.warning("MLflow: %s failed and is left out: %s", function.__name__, without_credentials(str(error)))
            return None

    return guarded


def tracking_uri(recipe: Recipe, root: Path) -> str:
    """The address of the recipe's tracking server, with what the environment gives; see `written_uri`."""
    written = written_uri(recipe, root)
    return opened(written, "tracking.uri") if recipe.tracking.uri else written


def written_uri(recipe: Recipe, root: Path) -> str:
    """The tracking server as the recipe writes it, else that of MLFLOW_TRACKING_URI, else an SQLite file in the store."""
    return recipe.tracking.uri or environment_uri() or own_tracking(root)


def environment_uri() -> str | None:
    """What the user has set MLFLOW_TRACKING_URI to; MLflow itself sets it as well, to what it is told to use."""
    given = os.environ.get(VARIABLE)
    return given if given and given not in _set_here else None


def own_tracking(root: Path) -> str:
    """The SQLite file of a store."""
    return f"sqlite:///{root / DATABASE}"


@functools.cache
def connect(uri: str, root: Path) -> MlflowClient:
    """A client. The tables of a new SQLite file are made under a lock: several processes that do it at once break the file."""
    import mlflow
    from mlflow import MlflowClient

    if os.environ.get(VARIABLE) != uri:
        _set_here.add(uri)
    mlflow.set_tracking_uri(uri)  # what takes no client (log_model, downloads from the registry) reads it
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for each error that is raised as well
    folder = root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "initialise.lock"):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        if is_shared(root) and uri == own_tracking(root) and (root / DATABASE).stat().st_uid == os.getuid():
            (root / DATABASE).chmod(0o664)  # SQLite makes it for its owner alone, whatever the umask
    return client


def client_for(recipe: Recipe, root: Path) -> MlflowClient:
    """A client of the recipe's tracking server.

    Raises:
        TrackingAway: when it does not answer.
    """
    uri = tracking_uri(recipe, root)
    require_answer(uri)
    return connect(uri, root)


def start_run(recipe: Recipe, root: Path, marker: Path | None = None) -> str:
    """The parent run of this recipe run: a new one, or the one that an interrupted run of the same recipe left open.

    Where MLflow is away the run has an id of its own, under which its report lies in the store: see `parent_of`. `marker` names
    the open run, of several at once.
    """
    marker = marker or marker_of(recipe, root)
    run_id = open_run(recipe, root, marker) or marked(marker) or uuid.uuid4().hex
    run_folder(root, run_id, "tracking.uri")
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, run_id)
    return run_id


@never_fatal
def open_run(recipe: Recipe, root: Path, marker: Path) -> str:
    """The id of the run that the marker names, or of a new one."""
    client = client_for(recipe, root)
    return _reopened(client, root, marker) or _new_run(client, recipe, root)


def _new_run(client: MlflowClient, recipe: Recipe, root: Path) -> str:
    from mlflow.entities import Param, RunTag

    run = client.create_run(_experiment(client, recipe, root), run_name=recipe.name)
    document = without_credentials(recipe.model_dump_json(indent=1))
    params = [Param(name, value[:PARAM_LENGTH]) for name, value in flatten(json.loads(document)).items()]
    client.log_batch(run.info.run_id, params=params, tags=[RunTag(name, value) for name, value in run_tags(recipe).items()])
    client.log_text(run.info.run_id, document, "recipe.json")
    return str(run.info.run_id)


def parent_of(client: MlflowClient, recipe: Recipe, root: Path, run_id: str) -> str:
    """The MLflow run of a run in the store: of the same id, or where MLflow was away at its beginning one that is made now."""
    from mlflow.exceptions import MlflowException

    folder = run_folder(root, run_id, "run_id")
    if known := marked(folder / PARENT):
        return known
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{PARENT}.lock"):
        if (known := marked(folder / PARENT)) is None:
            known = _new_run(client, recipe, root)
            write_atomically(folder / PARENT, known)
    return known


@never_fatal
def finish_run(recipe: Recipe, root: Path, report: RunReport, numbers: dict[str, float], page: Path | None = None) -> None:
    """Log final numbers, warnings and report, and close the parent run; one that failed is taken up again by the same recipe.

    `page` is the report that others may see, where it is not the run's own.
    """
    from mlflow.entities import Metric, RunTag

    client, failed = client_for(recipe, root), report.status == "failed"
    parent = parent_of(client, recipe, root, report.run_id)
    now = int(time.time() * 1000)
    tags = [RunTag("warnings", "\n".join(report.warnings))] if report.warnings else []
    try:
        client.log_batch(parent, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()], tags=tags)
        client.log_artifact(parent, str(page or report.report))
    finally:
        client.set_terminated(parent, "FAILED" if failed else "FINISHED")
    if not failed:
        forget(recipe, root, report.run_id)


@never_fatal
def close_run(recipe: Recipe, root: Path, run_id: str, status: str) -> None:
    """Set the final status of a run that ends early."""
    client = client_for(recipe, root)
    client.set_terminated(parent_of(client, recipe, root, run_id), status)


def _reopened(client: MlflowClient, root: Path, marker: Path) -> str | None:
    """The run that the marker names, running again; None without a marker, or when that run was deleted."""
    from mlflow.exceptions import MlflowException

    run_id = marked(marker)
    if run_id is None:
        return None
    try:
        client.update_run(marked(run_folder(root, run_id, "tracking.uri") / PARENT) or run_id, status="RUNNING")
    except MlflowException as error:
        log.warning("MLflow: run %s cannot be taken up again, a new one is started: %s", run_id, without_credentials(str(error)))
        return None
    return run_id


def flatten(document: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested fields as dotted names with text values."""
    flat: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _experiment(client: MlflowClient, recipe: Recipe, root: Path) -> str:
    """The recipe's experiment; in the store's own SQLite its artifacts lie in the store too."""
    name = recipe.tracking.experiment
    with locked(root / "tracking" / "initialise.lock"):
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        own = tracking_uri(recipe, root) == own_tracking(root)
        location = (root / ARTIFACTS).as_uri() if own else None
        return str(client.create_experiment(name, artifact_location=location))
