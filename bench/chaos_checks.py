"""What must hold after a run that was disturbed: equal weights, nothing left over, every number logged once, one version."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from bench.chaos_site import ChaosSite
from flows.deployed.api import insist
from flows.deployed.reconcile import reconcile
from posttrain.runtime.progress import current

SETTLE_SECONDS = 20.0


class Checks:
    """Against the weights of a run that nothing disturbed."""

    def __init__(self, site: ChaosSite, weights: dict[str, str]) -> None:
        assert weights, "the undisturbed run has made no weights"
        self.site, self.weights = site, weights

    def wrong(self, name: str) -> list[str]:
        """What is wrong after the run of that name and its repetitions."""
        reconcile(self.site.store, current().note)
        return [*self._weights(), *self._left_over(), *self._points(name), *self._versions(name)]

    def _weights(self) -> list[str]:
        now = self.site.weights()
        return [] if now == self.weights else [f"weights differ: {sorted(set(now.items()) ^ set(self.weights.items()))[:2]}"]

    def _left_over(self) -> list[str]:
        """Processes of runs, and runs that Prefect takes for unfinished."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end and _engines(self.site.store):
            time.sleep(1)
        orphans = _engines(self.site.store)
        zombies = insist(lambda client: _unfinished(client), "unfinished runs")
        return [f"processes left: {orphans}"] * bool(orphans) + [f"unfinished runs: {zombies}"] * bool(zombies)

    def _points(self, name: str) -> list[str]:
        """Every point of a curve is in MLflow once, in each finished nested run of a stage."""
        from mlflow import MlflowClient

        client, found = MlflowClient(self.site.mlflow), []
        experiment = client.get_experiment_by_name("chaos")
        parents = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        for parent in parents:
            for run in client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"):
                found += self._of_stage(client, run)
        return found

    def _of_stage(self, client: Any, run: Any) -> list[str]:
        stage, key = run.data.tags["stage"], run.data.tags["key"]
        curve = self.site.store / stage / key / "curve.jsonl"
        if run.info.status != "FINISHED" or not curve.exists():
            return []
        points = [each for each in map(json.loads, curve.read_text().splitlines()) if "loss" in each and each["step"]]
        logged = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "curve/loss")]
        wanted = [(each["step"], each["loss"]) for each in points]
        return [] if logged == wanted else [f"{stage}: {len(logged)} points for {len(wanted)}"]

    def _versions(self, name: str) -> list[str]:
        from mlflow import MlflowClient

        count = len(MlflowClient(self.site.mlflow).search_model_versions(f"name = '{name}'"))
        return [] if count == 1 else [f"{count} versions of {name}"]


def _engines(store: Path) -> list[int]:
    """Processes of flow runs whose parameters or surroundings are of this store."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "prefect.engine" in command and f"PREFECT_HOME={store}" in variables and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def _unfinished(client: Any) -> list[str]:
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING"]}}})
    return [f"{run.name} {run.state.name}" for run in client.read_flow_runs(flow_run_filter=wanted)]
