"""Of the scheduled runs of a deployment one goes on at a time: one that is due while an earlier one goes on is skipped.

Prefect's own limit per deployment is a lease, which a healthy run loses when its server starts again.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun

from flows.deployed.api import insist


def overlapped(flow_run: str | None) -> str | None:
    """Which earlier run of its deployment a scheduled run would overlap with, in a sentence; None where it may go on.

    Runs that people or programs start are never skipped. Of two that start together the one that Prefect started first goes on.
    """
    own = insist(lambda client: client.read_flow_run(UUID(flow_run)), "whether this run is scheduled") if flow_run else None
    if own is None or not own.auto_scheduled or own.deployment_id is None:
        return None
    wanted = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [own.deployment_id]}, "state": {"type": {"any_": ["RUNNING"]}}}
    )
    running = insist(lambda client: client.read_flow_runs(flow_run_filter=wanted), "whether an earlier run goes on")
    earlier = [run for run in running if _began(run) < _began(own)]
    if not earlier:
        return None
    first = min(earlier, key=_began)
    return f"run {first.name} ({first.id}) of the same deployment, started {first.start_time:%Y-%m-%d %H:%M} UTC, still goes on"


def _began(run: FlowRun) -> tuple[float, str]:
    """When Prefect started it; the identifier decides between two of the same moment."""
    return run.start_time.timestamp() if run.start_time else float("inf"), str(run.id)
