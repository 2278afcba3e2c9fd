"""What must hold after a run that was disturbed: equal weights, nothing left over, every number logged once, one version."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.chaos_site import REBUILT, ChaosSite
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
        return [*self._weights(), *self._left_over(), *self._in_mlflow(name), *self._versions(name)]

    def _weights(self) -> list[str]:
        now = self.site.weights()
        return [] if now == self.weights else [f"weights differ: {sorted(set(now.items()) ^ set(self.weights.items()))[:2]}"]

    def _left_over(self) -> list[str]:
        """Processes of runs, and runs that Prefect takes for unfinished."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end and self._orphans():
            time.sleep(1)
        orphans = self._orphans()
        zombies = insist(lambda client: _unfinished(client), "unfinished runs")
        return [f"processes left: {orphans}"] * bool(orphans) + [f"unfinished runs: {zombies}"] * bool(zombies)

    def _orphans(self) -> list[str]:
        """Processes of runs, and what these have started; servers and workers are none."""
        services = {each.process.pid for each in self.site.services.values() if each.process}
        return _started_for(self.site.store, services)

    def _in_mlflow(self, name: str) -> list[str]:
        """Over the run and its repetitions each stage that was built is finished there once, with every point of its curve."""
        from mlflow import MlflowClient

        client = MlflowClient(self.site.mlflow)
        experiments = [client.get_experiment_by_name("chaos").experiment_id]
        parents = client.search_runs(experiments, f"attributes.run_name = '{name}'")
        of_parent = "tags.`mlflow.parentRunId` = '{}'"
        nested = [run for each in parents for run in client.search_runs(experiments, of_parent.format(each.info.run_id))]
        finished = [run for run in nested if run.info.status == "FINISHED"]
        stages = Counter(run.data.tags["stage"] for run in finished)
        counted = [f"{stage}: finished {stages[stage]} times in MLflow" for stage in REBUILT if stages[stage] != 1]
        return [*counted, *(said for run in finished for said in self._of_stage(client, run))]

    def _of_stage(self, client: Any, run: Any) -> list[str]:
        stage, key = run.data.tags["stage"], run.data.tags["key"]
        curve = self.site.store / stage / key / "curve.jsonl"
        if not curve.exists():
            return []
        points = [each for each in map(json.loads, curve.read_text().splitlines()) if "loss" in each and each["step"]]
        logged = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "curve/loss")]
        wanted = [(each["step"], each["loss"]) for each in points]
        return [] if logged == wanted else [f"{stage}: {len(logged)} points for {len(wanted)}"]

    def _versions(self, name: str) -> list[str]:
        from mlflow import MlflowClient

        count = len(MlflowClient(self.site.mlflow).search_model_versions(f"name = '{name}'"))
        return [] if count == 1 else [f"{count} versions of {name}"]


def _started_for(store: Path, known: set[int]) -> list[str]:
    """Processes in whose environment a store is that of Prefect, but those that are known."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"PREFECT_HOME={store}" in variables and int(folder.name) not in {os.getpid(), *known}:
            found.append(f"{folder.name} {command[:80]}")
    return found


def _unfinished(client: Any) -> list[str]:
    from prefect.client.schemas.filters import FlowRunFilter

    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING"]}}})
    return [f"{run.name} {run.state.name}" for run in client.read_flow_runs(flow_run_filter=wanted)]
