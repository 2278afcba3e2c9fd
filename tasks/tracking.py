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

from posttrain.pipeline.chain import Chain
from posttrain.runtime.locks import locked
from posttrain.runtime.provenance import environment
from posttrain.runtime.store import Built, Stored
from posttrain.runtime.trees import is_shared
from posttrain.runtime.writing import write_atomically
from schemas.addresses import opened
from schemas.recipe import Recipe
from schemas.results import RunReport
from schemas.secrets import without_credentials
from tasks import tracked_rows
from tasks.check_tables import log_checks
from tasks.open_runs import forget, marked, marker_of, run_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "MLFLOW_TRACKING_URI"
_set_here: set[str] = set()  # values of the variable that are not the user's
DATABASE, ARTIFACTS = Path("tracking") / "mlflow.db", Path("tracking") / "artifacts"  # in a store
PARAM_LENGTH = 6000  # MLflow's limit of a parameter's value
BATCH = 1000  # MLflow's limit of metrics in one call
SMALL_FILES = (
    "summary.json", "curve.jsonl", "evaluation.json", "layout.txt", "reward.json", "round_trip.json", "rows.json",
)  # fmt: skip


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
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    folder = root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "initialise.lock"):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        if is_shared(root) and uri == own_tracking(root) and (root / DATABASE).stat().st_uid == os.getuid():
            (root / DATABASE).chmod(0o664)  # SQLite makes it for its owner alone, whatever the umask
    return client


def start_run(recipe: Recipe, root: Path, marker: Path | None = None) -> str:
    """The parent run of this recipe run: a new one, or the one that an interrupted run of the same recipe left open.

    Where MLflow is away the run has an id of its own, under which its report lies in the store. `marker` is where the open run
    is named, of several at once.
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
    from mlflow.entities import Param, RunTag

    client = connect(tracking_uri(recipe, root), root)
    if resumed := _reopened(client, marker):
        return resumed
    run = client.create_run(_experiment(client, recipe, root), run_name=recipe.name)
    document = without_credentials(recipe.model_dump_json(indent=1))
    params = [Param(name, value[:PARAM_LENGTH]) for name, value in flatten(json.loads(document)).items()]
    client.log_batch(run.info.run_id, params=params, tags=[RunTag(name, value) for name, value in environment().items()])
    client.log_text(run.info.run_id, document, "recipe.json")
    return str(run.info.run_id)


@never_fatal
def finish_run(recipe: Recipe, root: Path, report: RunReport, numbers: dict[str, float], page: Path | None = None) -> None:
    """Log final numbers, warnings and report, and close the parent run; one that failed is taken up again by the same recipe.

    `page` is the report that others may see, where it is not the run's own.
    """
    from mlflow.entities import Metric, RunTag

    client, failed = connect(tracking_uri(recipe, root), root), report.status == "failed"
    now = int(time.time() * 1000)
    tags = [RunTag("warnings", "\n".join(report.warnings))] if report.warnings else []
    try:
        client.log_batch(report.run_id, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()], tags=tags)
        client.log_artifact(report.run_id, str(page or report.report))
    finally:
        client.set_terminated(report.run_id, "FAILED" if failed else "FINISHED")
    if not failed:
        forget(recipe, root, report.run_id)


def tracked(chain: Chain, run_id: str, stage: str, build: Callable[[], Built]) -> Built:
    """Build a stage inside its nested run; a stage that resumes takes up the nested run that it had."""
    nested = open_stage(chain, run_id, stage)
    try:
        return build()
    except BaseException:
        if nested:
            close_run(chain, nested, "FAILED")
        raise


@never_fatal
def open_stage(chain: Chain, run_id: str, stage: str) -> str:
    """The id of the stage's nested run, made when it is not there."""
    client = connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root)
    key = chain.identity(stage).key
    if found := _nested(client, run_id, stage, key):
        client.update_run(found.info.run_id, status="RUNNING")
        return found.info.run_id
    tags = {"mlflow.parentRunId": run_id, "stage": stage, "key": key}
    experiment = client.get_run(run_id).info.experiment_id
    return client.create_run(experiment, tags=tags, run_name=stage).info.run_id


@never_fatal
def left_open(chain: Chain, run_id: str, stored: Stored) -> bool:
    """Whether a process died between finishing this stage and logging it."""
    client = connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root)
    nested = _nested(client, run_id, stored.result.stage, stored.result.key)
    return nested is not None and nested.info.status != "FINISHED"


def _nested(client: MlflowClient, run_id: str, stage: str, key: str) -> Run | None:
    """The nested run of a stage with this key, or None."""
    wanted = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.stage = '{stage}' and tags.key = '{key}'"
    found = client.search_runs([client.get_run(run_id).info.experiment_id], wanted, max_results=1)
    return found[0] if found else None


@never_fatal
def close_run(chain: Chain, nested: str, status: str) -> None:
    """Set the final status of a run that ends early."""
    connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root).set_terminated(nested, status)


@never_fatal
def log_stage(chain: Chain, run_id: str, stored: Stored) -> None:
    """Log a finished stage: fields, inputs by digest, numbers, curve, small files, and the adapter."""
    from mlflow.entities import Metric, Param, RunTag

    client = connect(tracking_uri(chain.recipe, chain.store.root), chain.store.root)
    result = stored.result
    nested = open_stage(chain, run_id, result.stage)
    if nested is None:
        return
    now = int(time.time() * 1000)
    params = [Param(name, value[:PARAM_LENGTH]) for name, value in flatten(result.fields).items()]
    tags = [RunTag(f"input.{origin.name}", origin.digest) for origin in result.inputs]
    client.log_batch(nested, metrics=[Metric(k, v, now, 0) for k, v in result.metrics.items()], params=params, tags=tags)
    points = _curve(stored.folder / "curve.jsonl", now)
    for start in range(0, len(points), BATCH):
        client.log_batch(nested, metrics=points[start : start + BATCH])
    for name in SMALL_FILES:
        if (stored.folder / name).exists():
            client.log_artifact(nested, str(stored.folder / name))
    if result.stage == "validate":
        log_checks(client, nested, stored.folder / "summary.json")
    for name in tracked_rows.TABLES:
        _log_table(client, nested, stored.folder / name, chain.recipe)
    if "adapter" in result.outputs and result.stage != "register":
        client.log_artifacts(nested, str(stored.path("adapter")), "adapter")
    client.set_terminated(nested, "FINISHED")


def _log_table(client: MlflowClient, nested: str, path: Path, recipe: Recipe) -> None:
    if path.exists():
        with tracked_rows.table_to_log(path, recipe.tracking) as table:
            if table:
                client.log_artifact(nested, str(table))


def _reopened(client: MlflowClient, marker: Path) -> str | None:
    """The run that the marker names, running again; None without a marker, or when that run was deleted."""
    from mlflow.exceptions import MlflowException

    run_id = marked(marker)
    if run_id is None:
        return None
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        log.warning("MLflow: run %s cannot be taken up again, a new one is started: %s", run_id, without_credentials(str(error)))
        return None
    return run_id


def _curve(path: Path, now: int) -> list[Any]:
    from mlflow.entities import Metric

    points = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        Metric(f"curve/{name}", value, now, point["step"])
        for point in points
        for name, value in point.items()
        if name != "step"
    ]  # fmt: skip


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
