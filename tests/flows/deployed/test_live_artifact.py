"""How far a stage is, as a real Prefect server has it."""

from __future__ import annotations

import io
import time

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployed import live_artifact
from flows.deployed.live_artifact import shown
from flows.live import TerminalProgress
from flows.terminal import PlainConsole


@flow(name="shown")
def something() -> None:
    """A flow to have a run of."""


@pytest.fixture
def client(prefect_url, monkeypatch):
    monkeypatch.setattr(live_artifact, "PERIOD_SECONDS", 0.1)
    with temporary_settings({PREFECT_API_URL: prefect_url}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def progress() -> TerminalProgress:
    return TerminalProgress(PlainConsole(file=io.StringIO(), force_terminal=False))


def artifacts(client, run) -> list:
    return client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}}))


def seen(client, run, wanted: float) -> list:
    """The artifacts, once the last one says `wanted` percent."""
    end = time.monotonic() + 60
    while not (found := artifacts(client, run)) or found[0].data != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def test_one_artifact_moves_with_the_outermost_count(client, progress):
    """30 of 120 steps are 25 percent; what is inside a step is no matter."""
    run = client.create_flow_run(something)
    with shown(progress, str(run.id)):
        progress.start("align", 0)
        time.sleep(0.3)
        assert artifacts(client, run) == []
        progress.start("align training", 120)
        progress.advance(30, {})
        progress.start("responses", 10)
        [one] = seen(client, run, 25.0)
        assert one.type == "progress"
        assert "align training 30 of 120" in one.description
        progress.end("responses")
        progress.advance(60, {})
        assert [each.id for each in seen(client, run, 50.0)] == [one.id]


def test_a_server_that_is_away_holds_nothing_up(client, progress):
    run = client.create_flow_run(something)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        began = time.monotonic()
        with shown(progress, str(run.id)):
            progress.start("align training", 10)
            progress.advance(5, {})
            time.sleep(0.4)
        assert time.monotonic() - began < 10


def test_outside_of_a_run_there_is_none(progress):
    with shown(progress, None):
        progress.start("align training", 10)
