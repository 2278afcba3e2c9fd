"""Take away what `registration.py` has made."""

from __future__ import annotations

from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.deployed.names import TAG

PAGE = 200


def remove(client: SyncPrefectClient, root: Path, pools: bool) -> list[str]:
    """Delete the deployments of a store, and with `pools` the work pools that they name.

    Returns:
        what was done, a sentence each.
    """
    done: list[str] = []
    names: set[str] = set()
    for each in _ours(client, root):
        names |= {each.work_pool_name} if each.work_pool_name else set()
        client.delete_deployment(each.id)
        done.append(f"deployment {each.name} on pool {each.work_pool_name} is deleted")
    for name in sorted(names) if pools else ():
        try:
            client.delete_work_pool(name)
        except ObjectNotFound:
            continue
        done.append(f"work pool {name} is deleted")
    return done


def _ours(client: SyncPrefectClient, root: Path) -> list[DeploymentResponse]:
    """Those of the chain with this store; those of the stages as well, unless another store's chain needs them."""
    wanted = DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=wanted, limit=PAGE, offset=len(found)):
        found += page
    of_chains = [each for each in found if "store" in each.parameters]
    ours = [each for each in of_chains if each.parameters["store"] == str(root)]
    return ours if len(ours) < len(of_chains) else found
