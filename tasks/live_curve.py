"""A stage's curve in MLflow while the stage runs, each point once whatever happens to the server or to this process.

The file that training appends to is the buffer, so nothing is lost while the server is away. MLflow takes a batch whole or not at
all, and points are sent in order: the last step that it has says which come next, and it is asked at the beginning and after each
failure. The time of a point is when the nested run began plus the seconds of training: sent again, it is the same point.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from schemas.secrets import without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
BATCH = 1000  # MLflow's limit of metrics in one call
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 5.0  # that the end of a stage waits for a call in hand
PREFIX = "curve/"


class Follower(Protocol):
    """Whatever a curve is sent to."""

    def send(self) -> int:
        """Send the points that are not there yet; returns how many they were."""


class Curve:
    """What MLflow has of one curve, and how it gets the rest."""

    def __init__(self, client: MlflowClient, nested: str, path: Path, prefix: str = PREFIX) -> None:
        self.client, self.nested, self.path, self.prefix = client, nested, path, prefix
        self.began = int(client.get_run(nested).info.start_time)
        self.last: float | None = None  # step that MLflow has; None: it is to be asked
        self.read = 0  # bytes of the file whose points are sent

    def send(self) -> int:
        """Send the points that MLflow does not have; returns how many they were."""
        start = 0 if self.last is None else self.read
        points, end = read_points(self.path, start)
        if self.last is None:
            self.last = self._last_step(points)
        new = [point for point in points if point["step"] > self.last]
        for batch in _batches(new):
            step, self.last = batch[-1]["step"], None  # unknown while the answer is out
            self.client.log_batch(self.nested, metrics=[each for point in batch for each in self._metrics(point)])
            self.last = step
        self.read = end
        return len(new)

    def _last_step(self, points: list[dict[str, float]]) -> float:
        """The last step of the curve in MLflow, by the history of a number that every point has."""
        common = sorted(set.intersection(*map(set, points)) - {"step"}) if points else []
        if not common:
            return -1.0
        name = "tokens" if "tokens" in common else common[0]
        return max((each.step for each in self.client.get_metric_history(self.nested, f"{self.prefix}{name}")), default=-1)

    def _metrics(self, point: dict[str, float]) -> list[Any]:
        from mlflow.entities import Metric

        at = self.began + round(1000 * point.get("seconds", 0))
        step = int(point["step"])
        return [Metric(f"{self.prefix}{name}", value, at, step) for name, value in point.items() if name != "step"]


@contextmanager
def live(connected: Callable[[], Follower | None]) -> Iterator[None]:
    """Send a curve every `FLUSH_SECONDS` inside, from a thread of its own; failures are told once, and tried again.

    Args:
        connected: gives the curve, or None while there is none to send to; asked again after each failure.
    """
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(connected, over), daemon=True, name="live curve")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(CLOSE_SECONDS)  # what is not sent by then is sent with the finished stage


def _follow(connected: Callable[[], Follower | None], over: threading.Event) -> None:
    curve: Follower | None = None
    failed = False
    while not over.wait(FLUSH_SECONDS):
        try:
            curve = curve or connected()
            if curve:
                curve.send()
                failed = False
        except Exception as error:
            curve = None
            if not failed:
                log.warning("the curve is sent later: %s", without_credentials(str(error)))
            failed = True


def read_points(path: Path, start: int) -> tuple[list[dict[str, float]], int]:
    """The points of a curve from a byte on, and where they end; the last line may be written at this moment."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            content = stream.read()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def _batches(points: list[dict[str, float]]) -> Iterator[list[dict[str, float]]]:
    """Runs of whole points within MLflow's limit."""
    batch: list[dict[str, float]] = []
    for point in points:
        if batch and sum(map(len, batch)) + len(point) > BATCH:
            yield batch
            batch = []
        batch.append(point)
    if batch:
        yield batch
