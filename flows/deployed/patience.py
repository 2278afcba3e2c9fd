"""Calls of Prefect's API that wait for a server that is away, in a process that was made for one run.

Prefect's own client ends at the first call that finds no server, and opens a new client for nearly every step by which a run
begins. It asks again where it has been answered before, at intervals that double without end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from flows.deployed.api import is_outage

log = logging.getLogger(__name__)
VARIABLE = "POSTTRAIN_PREFECT_WAIT_SECONDS"
WAIT_SECONDS = 900.0
"""That one call waits, unless `VARIABLE` says otherwise."""
FIRST_SECONDS, LONGEST_SECONDS = 1, 10  # between two attempts, which doubles
LOGS = "/logs/"  # a thread sends them, and keeps those that it could not send
_over = threading.Event()


def install() -> None:
    """From here on every call of this process waits, but those that ask for no retries: they have a loop of their own."""
    seconds = wait_seconds()
    sync, asynchronous = PrefectHttpxSyncClient.send, PrefectHttpxAsyncClient.send

    def send(client: PrefectHttpxSyncClient, request: httpx.Request, *words: Any, **more: Any) -> httpx.Response:
        return _patiently(lambda: sync(client, request, *words, **more), request, seconds)

    async def send_async(client: PrefectHttpxAsyncClient, request: httpx.Request, *words: Any, **more: Any) -> httpx.Response:
        return await _patiently_async(lambda: asynchronous(client, request, *words, **more), request, seconds)

    # Not by inheritance: the engine makes these clients by itself, in many places.
    setattr(PrefectHttpxSyncClient, "send", send)  # noqa: B010
    setattr(PrefectHttpxAsyncClient, "send", send_async)  # noqa: B010


def end() -> None:
    """Wait no longer: threads that send logs and events would hold up the end of the process."""
    _over.set()


def wait_seconds() -> float:
    """How long a call waits."""
    try:
        return float(os.environ.get(VARIABLE, WAIT_SECONDS))
    except ValueError:
        log.warning("%s is no number of seconds: %r", VARIABLE, os.environ[VARIABLE])
        return WAIT_SECONDS


def _patiently(call: Callable[[], httpx.Response], request: httpx.Request, seconds: float) -> httpx.Response:
    for pause in (outage := _Outage(request, seconds)).pauses():
        try:
            return outage.over(call())
        except Exception as error:
            if not outage.may_wait(error):
                raise
        _over.wait(pause)
    raise AssertionError


async def _patiently_async(
    call: Callable[[], Awaitable[httpx.Response]], request: httpx.Request, seconds: float
) -> httpx.Response:
    for pause in (outage := _Outage(request, seconds)).pauses():
        try:
            return outage.over(await call())
        except Exception as error:
            if not outage.may_wait(error):
                raise
        for _ in range(pause):
            if not _over.is_set():
                await asyncio.sleep(1)
    raise AssertionError


class _Outage:
    """That of one call, if there is one."""

    def __init__(self, request: httpx.Request, seconds: float) -> None:
        self.request, self.seconds = request, seconds
        self.began: float | None = None

    def pauses(self) -> Iterator[int]:
        """Seconds before each further attempt."""
        pause = FIRST_SECONDS
        while True:
            yield pause
            pause = min(2 * pause, LONGEST_SECONDS)

    def may_wait(self, error: Exception) -> bool:
        """Whether the call is to be repeated; the first time it is said that it waits."""
        if not is_outage(error) or _over.is_set() or PREFECT_CLIENT_MAX_RETRIES.value() == 0:
            return False
        if self.request.url.path.endswith(LOGS):
            return False
        if self.began is None:
            self.began = time.monotonic()
            self._say(f"Prefect does not answer, waiting for up to {self.seconds:.0f} s: {_said(error)}")
        return time.monotonic() - self.began < self.seconds

    def over(self, response: httpx.Response) -> httpx.Response:
        """The answer, which ends it."""
        if self.began is not None:
            self._say(f"Prefect answers again, after {time.monotonic() - self.began:.0f} s")
        return response

    def _say(self, text: str) -> None:
        """On the output of the process, and in the logs of its run once they can be sent."""
        log.warning(text, extra={"flow_run_id": os.environ.get("PREFECT__FLOW_RUN_ID")})


def _said(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
