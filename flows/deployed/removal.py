"""Take away what `registration.py` has made."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.deployed import automations
from flows.deployed.api import insist
from flows.deployed.names import TAG
from posttrain.runtime.store import Store

PAGE = 200


def remove(root: Path, pools: bool) -> list[str]:
    """Delete the deployments of a store, and with `pools` the work pools that they name.

    Each call is repeated by itself while the server is busy, as one on SQLite is when a run starts.

    Returns:
        what was done, a sentence each.
    """
    done: list[str] = []
    names: set[str] = set()
    for each in insist(lambda client: _ours(client, root), "which deployments there are"):
        names |= {each.work_pool_name} if each.work_pool_name else set()
        insist(partial(_delete_deployment, each.id), "to delete deployments")
        done.append(f"deployment {each.name} on pool {each.work_pool_name} is deleted")
    for name in sorted(names) if pools else ():
        if insist(partial(_delete_pool, name), "to delete work pools"):
            done.append(f"work pool {name} is deleted")
    for automation in insist(automations.removable, "which automations there are"):
        insist(partial(_delete_automation, automation.id), "to delete automations")
        done.append(f"automation {automation.name} is deleted")
    return done


def _delete_deployment(deployment: UUID, client: SyncPrefectClient) -> None:
    with suppress(ObjectNotFound):  # deleted by a call whose answer was lost
        client.delete_deployment(deployment)


def _delete_automation(automation: UUID, client: SyncPrefectClient) -> None:
    with suppress(ObjectNotFound):
        client.delete_automation(automation)


def _delete_pool(name: str, client: SyncPrefectClient) -> bool:
    """Whether there was one."""
    try:
        client.delete_work_pool(name)
    except ObjectNotFound:
        return False
    return True


def _ours(client: SyncPrefectClient, root: Path) -> list[DeploymentResponse]:
    """Those of the chain with this store; those of the stages as well, unless another store's chain needs them."""
    wanted = DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    of_chains = [each for each in found if "store" in each.parameters]
    ours = [each for each in of_chains if each.parameters["store"] == Store(root).address]
    return ours if len(ours) < len(of_chains) else found
