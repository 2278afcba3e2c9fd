"""Calls of Prefect's API by a process that must outlive an outage of the server or of its database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from posttrain.runtime.progress import current

T = TypeVar("T")
AWAY_SECONDS = 1800.0  # that Prefect may be away before a run gives up
RETRY_SECONDS = 3.0
QUIET_SECONDS = 15.0  # a server on SQLite is busy at times, which is no news
BUSY = {408, 425, 429}


class PrefectAway(Exception):
    """Prefect has not answered for a long time; what is finished is kept."""


def is_outage(error: Exception) -> bool:
    """Whether the same call may work later."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in BUSY
    return isinstance(error, httpx.TransportError)


def ask(call: Callable[[SyncPrefectClient], T]) -> T:
    """One call, without the client's own retries, during which nothing else could be looked at."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        return call(client)


def insist(call: Callable[[SyncPrefectClient], T], what: str) -> T:
    """Repeat a call until Prefect answers; `what` it is for is told to whoever waits.

    Raises:
        PrefectAway: after `AWAY_SECONDS`.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return ask(call)
        except Exception as error:
            if not is_outage(error):
                raise
            if time.monotonic() - began > AWAY_SECONDS:
                raise PrefectAway(f"no answer for {AWAY_SECONDS / 60:.0f} minutes, for {what}: {error}") from error
            if not told and time.monotonic() - began > QUIET_SECONDS:
                current().note(f"Prefect does not answer, waiting: {what}")
                told = True
            time.sleep(RETRY_SECONDS)
