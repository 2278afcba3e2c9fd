"""How far a stage is, in Prefect's pages: a progress artifact of its flow run, renewed while something moves."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from flows.deployed.api import ask
from flows.live import TerminalProgress

PERIOD_SECONDS = 15.0
KEY = "progress"


@contextmanager
def shown(progress: TerminalProgress, flow_run: str | None) -> Iterator[None]:
    """Inside, the flow run has an artifact that says how far `progress` is; nothing outside of a flow run.

    A thread asks the server, so that no outage holds up the work; what it could not tell is old a moment later.
    """
    if flow_run is None:
        yield
        return
    bar, over = _Bar(progress, UUID(flow_run)), threading.Event()
    settings = contextvars.copy_context()  # those of Prefect are in it
    thread = threading.Thread(target=settings.run, args=(bar.follow, over), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PERIOD_SECONDS)


class _Bar:
    """The artifact of one run."""

    def __init__(self, progress: TerminalProgress, flow_run: UUID) -> None:
        self.progress, self.flow_run = progress, flow_run
        self.made: UUID | None = None
        self.told: tuple[float | None, str] | None = None

    def follow(self, over: threading.Event) -> None:
        """Tell until it is over."""
        while not over.wait(PERIOD_SECONDS):
            try:
                self.tell()
            except Exception:  # noqa: S112 - the server is away; the next one may come through
                continue

    def tell(self) -> None:
        """Send what has changed; a stage that counts nothing has no bar."""
        now = self.progress.share(), self.progress.where()
        if now[0] is None or now == self.told:
            return
        share, where = round(now[0], 1), now[1]
        if self.made is None:
            given = ArtifactCreate(type="progress", key=KEY, data=share, description=where, flow_run_id=self.flow_run)
            self.made = ask(lambda client: client.create_artifact(given)).id
        else:
            made, update = self.made, ArtifactUpdate(data=share, description=where)
            ask(lambda client: client.update_artifact(made, update))
        self.told = now
