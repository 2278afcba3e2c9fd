"""What commands that talk to a Prefect server have in common: which one it is, and that it answers."""

from __future__ import annotations

import os
from pathlib import Path

from flows.commands.shared import prepare
from flows.serving.address import served_address
from posttrain.runtime.store import Store
from schemas.errors import Refusal


def prepare_remote(store: str) -> Path:
    """The root of a store, with the settings of the Prefect server that is to run things; called before Prefect is imported.

    The server is that of PREFECT_API_URL, else the one that `posttrain serve` runs on this store.

    Raises:
        Refusal: when there is neither, or it does not answer.
    """
    if "PREFECT_API_URL" not in os.environ and (address := served_address(Store(store).root)):
        os.environ["PREFECT_API_URL"] = address
    if "PREFECT_API_URL" not in os.environ:
        raise Refusal(
            where="PREFECT_API_URL",
            found=f"nothing, and no `posttrain serve` runs on {store}",
            allowed="the address of a Prefect server, http://HOST:4200/api for one",
            remedy="set it; or start `posttrain serve`, and give its --store here",
        )
    root = prepare(store)
    _require_answer(os.environ["PREFECT_API_URL"])
    return root


def _require_answer(address: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.deployed.api import is_outage

    try:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
            client.read_work_pools()
    except Exception as error:
        if not is_outage(error) and "401" not in str(error):
            raise
        raise Refusal(
            where="PREFECT_API_URL",
            found=f"{address}, where {'a password is asked for' if '401' in str(error) else 'no Prefect server answers'}",
            allowed="a server that runs",
            remedy="start it, or correct the address; a password comes from PREFECT_API_AUTH_STRING",
        ) from None
