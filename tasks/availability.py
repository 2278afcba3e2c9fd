"""Whether a tracking server answers: asked quickly and seldom, so that nothing waits for minutes on one that is away.

MLflow's own client repeats each call to a server that is away for minutes. Here a connection is tried first, at most every
`AGAIN_SECONDS`; while it fails every call is given up at once (a circuit breaker), and what was to be logged waits in the store.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import SplitResult, urlsplit, urlunsplit

from posttrain.runtime import progress
from schemas.errors import Refusal
from schemas.secrets import without_credentials

PROBE_SECONDS = 3.0
AGAIN_SECONDS = 10.0  # for which an answer, or none, counts
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
AWAY = {502, 503, 504}  # what a proxy answers for a server that is away
_known: dict[str, tuple[float, str | None]] = {}  # by address: when it was asked, and what was wrong
_lock = threading.Lock()


class TrackingAway(Exception):
    """The tracking server does not answer; what it was to be told is in the store."""


def require_answer(uri: str) -> None:
    """Make sure that a tracking server answers, or did a moment ago.

    Raises:
        TrackingAway: when it does not.
    """
    with _lock:
        asked, wrong = _known.get(uri, (float("-inf"), None))
        if time.monotonic() - asked > AGAIN_SECONDS:
            wrong = problem(uri)
            _known[uri] = time.monotonic(), wrong
    if wrong:
        raise TrackingAway(f"{without_credentials(uri)} does not answer ({wrong})")


def wait_for_answer(uri: str, seconds: float, what: str) -> None:
    """Wait until a tracking server answers; who waits is told for `what`.

    Raises:
        Refusal: when it does not within `seconds`.
    """
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            return require_answer(uri)
        except TrackingAway as away:
            if time.monotonic() >= end:
                raise Refusal(
                    where="tracking.uri",
                    found=f"no answer for {seconds / 60:.0f} minutes: {away}",
                    allowed=f"a tracking server that runs: {what} needs it",
                    remedy="start it, and give the same command again: all finished stages are kept, and it goes on from here",
                ) from None
            if not told:
                progress.current().note(f"waiting for MLflow, {what} needs it: {away}")
                told = True
            time.sleep(min(AGAIN_SECONDS, max(0.0, end - time.monotonic())))


def problem(uri: str) -> str | None:
    """Why a server does not answer, or None where it does; a file always does. It is asked anew each time."""
    try:
        address = urlsplit(uri)
        scheme = address.scheme.partition("+")[0]
        if scheme in ("http", "https"):
            with urllib.request.urlopen(_health(address), timeout=PROBE_SECONDS):  # noqa: S310 - http, as was seen
                return None
        if address.hostname and (port := address.port or PORTS.get(scheme)):
            socket.create_connection((address.hostname, port), PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        return f"status {answer.code}" if answer.code in AWAY else None  # any other answer is one: of a login, say
    except OSError as error:  # URLError is one
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else without_credentials(str(reason))  # MLflow judges certificates
    except (ValueError, HTTPException):  # no address, or no HTTP: MLflow says so better
        return None
    return None


def _health(address: SplitResult) -> str:
    """Where a server of MLflow says that it is there, without user and password, which urllib takes for a part of the host."""
    return urlunsplit((address.scheme, address.netloc.rpartition("@")[2], f"{address.path.rstrip('/')}/health", "", ""))
