"""The nested MLflow run of a stage: its curve while it is built, and everything else when it is finished.

What MLflow does not get while its server is away is noted in the folder of the run and logged later: by the next stage, at the
end of the run, or by the same command given again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.pipeline.chain import Chain
from posttrain.runtime.remote import documents
from posttrain.runtime.store import Built, Stored
from schemas.recipe import Recipe
from schemas.results import StageResult
from schemas.secrets import shown
from tasks import live_curve, sinks, system_metrics, tracked_rows
from tasks.check_tables import log_checks
from tasks.open_runs import run_folder
from tasks.tracking import PARAM_LENGTH, client_for, flatten, never_fatal, parent_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURVE = "curve.jsonl"
DIGEST_LENGTH = 36  # MLflow's limit of a data set's digest
SMALL_FILES = (
    "summary.json", "curve.jsonl", "evaluation.json", "layout.txt", "on_policy.json", "reward.json", "round_trip.json",
    "rows.json",
)  # fmt: skip


def tracked(chain: Chain, run_id: str, stage: str, build: Callable[[Path], Built], out: Path) -> Built:
    """Build a stage in `out` inside its nested run; a stage that resumes takes up the nested run that it had."""
    nested = open_stage(chain, run_id, stage)
    known = {"nested": nested} if nested else {}
    opening = threading.Lock()  # two curves are followed, each by a thread of its own

    def curve(path: Path, prefix: str) -> live_curve.Curve:
        """To the nested run, which is made now, once, where the server was away before."""
        with opening:
            if "nested" not in known:
                known["nested"] = _open_stage(chain, run_id, stage)
        return live_curve.Curve(client_for(chain.recipe, chain.store.root), known["nested"], path, prefix)

    system = _system(chain, run_id, stage)
    try:
        with (
            live_curve.live(lambda: curve(out / CURVE, live_curve.PREFIX)),
            system_metrics.sampled(system, chain.recipe.tracking.system_seconds),
            live_curve.live(lambda: curve(system, system_metrics.PREFIX) if system.exists() else None),
            sinks.live(chain, run_id, stage, out / CURVE),
        ):
            return build(out)
    except BaseException:
        if "nested" in known:
            close_stage(chain, known["nested"], "FAILED")
        raise


def log_all(chain: Chain, run_id: str, stored: Stored | None = None) -> None:
    """Log a finished stage, and those before it that MLflow did not get."""
    if stored:
        documents.write(_note(chain, run_id, stored.result.stage), "")
    for stage in chain.recipe.stages:
        note = _note(chain, run_id, stage)
        if documents.read(note) is None:
            continue
        finished = stored if stored and stored.result.stage == stage else chain.store.finished(chain.identity(stage))
        if finished is None or log_stage(chain, run_id, finished):
            documents.remove(note)
        if finished:
            sinks.finish(chain, run_id, finished)


def _system(chain: Chain, run_id: str, stage: str) -> Path:
    """What the machine did while a stage was built."""
    return run_folder(chain.store.root, run_id, "run_id") / f"{stage}.system.jsonl"


def _note(chain: Chain, run_id: str, stage: str) -> Path:
    """A document that is there while MLflow lacks a finished stage of the run."""
    return run_folder(chain.store.root, run_id, "run_id") / f"{stage}.unlogged"


@never_fatal
def open_stage(chain: Chain, run_id: str, stage: str) -> str:
    """The id of the stage's nested run, made when it is not there."""
    return _open_stage(chain, run_id, stage)


def _open_stage(chain: Chain, run_id: str, stage: str) -> str:
    client = client_for(chain.recipe, chain.store.root)
    parent, key = parent_of(client, chain.recipe, chain.store.root, run_id), chain.identity(stage).key
    if found := _nested(client, parent, stage, key):
        client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)
    tags = {"mlflow.parentRunId": parent, "stage": stage, "key": key}
    experiment = client.get_run(parent).info.experiment_id
    return str(client.create_run(experiment, tags=tags, run_name=stage).info.run_id)


@never_fatal
def left_open(chain: Chain, run_id: str, stored: Stored) -> bool:
    """Whether a process died between finishing this stage and logging it."""
    client = client_for(chain.recipe, chain.store.root)
    parent = parent_of(client, chain.recipe, chain.store.root, run_id)
    nested = _nested(client, parent, stored.result.stage, stored.result.key)
    return nested is not None and nested.info.status != "FINISHED"


def _nested(client: MlflowClient, parent: str, stage: str, key: str) -> Run | None:
    """The nested run of a stage with this key, or None."""
    wanted = f"tags.`mlflow.parentRunId` = '{parent}' and tags.stage = '{stage}' and tags.key = '{key}'"
    found = client.search_runs([client.get_run(parent).info.experiment_id], wanted, max_results=1)
    return found[0] if found else None


@never_fatal
def close_stage(chain: Chain, nested: str, status: str) -> None:
    """Set the final status of a nested run that ends early."""
    client_for(chain.recipe, chain.store.root).set_terminated(nested, status)


@never_fatal
def log_stage(chain: Chain, run_id: str, stored: Stored) -> bool:
    """Log a finished stage: fields, inputs by digest, numbers, curve, small files, adapter. Called again it adds nothing."""
    client = client_for(chain.recipe, chain.store.root)
    nested = _open_stage(chain, run_id, stored.result.stage)
    _log_numbers(client, nested, stored.result)
    live_curve.Curve(client, nested, stored.folder / CURVE).send()
    live_curve.Curve(client, nested, _system(chain, run_id, stored.result.stage), system_metrics.PREFIX).send()
    for name in SMALL_FILES:
        if (stored.folder / name).exists():
            client.log_artifact(nested, str(stored.folder / name))
    if stored.result.stage == "validate" and (summary := stored.folder / "summary.json").exists():
        log_checks(client, nested, summary)
    for name in tracked_rows.TABLES:
        _log_table(client, nested, stored.folder / name, chain.recipe)
    if "adapter" in stored.result.outputs and stored.result.stage != "register":
        client.log_artifacts(nested, str(stored.path("adapter")), "adapter")
    client.set_terminated(nested, "FINISHED")
    return True


def _log_numbers(client: MlflowClient, nested: str, result: StageResult) -> None:
    """Numbers at the time at which the stage was finished: the same point when they are sent again."""
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    at = int(client.get_run(nested).info.start_time) + round(1000 * result.seconds)
    params = [Param(name, value[:PARAM_LENGTH]) for name, value in flatten(result.fields).items()]
    tags = [RunTag(f"input.{origin.name}", origin.digest) for origin in result.inputs]
    client.log_batch(nested, metrics=[Metric(k, v, at, 0) for k, v in result.metrics.items()], params=params, tags=tags)
    sources = [origin for origin in result.inputs if origin.name.startswith("data.")]
    datasets = [
        DatasetInput(Dataset(each.name, each.digest[:DIGEST_LENGTH], "posttrain", json.dumps({"uri": shown(each.location)})))
        for each in sources
    ]
    if datasets:
        client.log_inputs(nested, datasets)


def _log_table(client: MlflowClient, nested: str, path: Path, recipe: Recipe) -> None:
    if path.exists():
        with tracked_rows.table_to_log(path, recipe.tracking) as table:
            if table:
                client.log_artifact(nested, str(table))
