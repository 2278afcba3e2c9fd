"""What `posttrain status` tells: the pools with their workers, and the latest runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort

from flows.deployed.names import TAG
from flows.deployed.remote_run import page_of


def overview(client: SyncPrefectClient, limit: int) -> dict[str, Any]:
    """Pools by name, and at most `limit` runs, the latest first."""
    deployments = client.read_deployments(deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}}))
    pools = sorted({each.work_pool_name for each in deployments if each.work_pool_name})
    due = {"expected_start_time": {"before_": datetime.now(UTC)}}
    wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [each.id for each in deployments]}, **due})
    order = FlowRunSort.EXPECTED_START_TIME_DESC
    runs = client.read_flow_runs(flow_run_filter=wanted, sort=order, limit=limit) if deployments else []
    return {
        "deployments": sorted(each.name for each in deployments),
        "pools": {name: _pool(client, name) for name in pools},
        "schedules": [line for each in deployments for line in _schedules(each)],
        "runs": [_run(each) for each in runs],
    }


def _schedules(deployment: DeploymentResponse) -> list[dict[str, Any]]:
    return [
        {"deployment": deployment.name, "cron": each.schedule.cron, "active": each.active and not deployment.paused}
        for each in deployment.schedules
        if isinstance(each.schedule, CronSchedule)
    ]


def _pool(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    pool = client.read_work_pool(name)
    answer = client.request(
        "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": name}, json={"limit": 200}
    )
    online = [worker["name"] for worker in answer.json() if worker["status"] == "ONLINE"]
    return {"type": pool.type, "limit": pool.concurrency_limit, "paused": pool.is_paused, "workers": sorted(online)}


def _run(run: FlowRun) -> dict[str, Any]:
    assert run.state
    since = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    return {
        "name": run.name,
        "state": run.state.name,
        "seconds_in_it": round(since),
        "pool": run.work_pool_name,
        "message": run.state.message or "",
        "page": page_of(run.id),
    }
