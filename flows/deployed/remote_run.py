"""Start a run on the work pools from outside, and follow it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL
from rich.console import Console

from flows.deployed.api import insist
from flows.deployed.artifacts import RUN
from flows.deployed.form import form_values
from flows.deployed.names import GATE, REFUSED, deployment_of, tags_of
from posttrain.runtime.redaction import clean
from schemas.errors import Refusal
from schemas.recipe import Recipe
from tasks.exchange import CHAIN

POLL_SECONDS = 2.0
EXIT_CODES = {REFUSED: 2, GATE: 3}


@dataclass(frozen=True)
class Started:
    """A run of the chain."""

    id: str
    name: str
    page: str | None


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    state: str
    message: str
    exit_code: int
    summary: str | None


def start(recipe: Recipe) -> Started:
    """Start the deployment of the chain for a recipe, whose store and pools are those of the deployment.

    Raises:
        Refusal: when there is none.
    """
    name = deployment_of(CHAIN)

    def create(client: SyncPrefectClient) -> FlowRun:
        found = client.read_deployment_by_name(name)
        given = {"recipe": form_values(recipe)}
        return client.create_flow_run_from_deployment(found.id, parameters=given, name=recipe.name, tags=tags_of(recipe))

    try:
        run = insist(create, "to start a run")
    except ObjectNotFound:
        raise Refusal(
            where="PREFECT_API_URL",
            found=f"a server that knows no deployment {name}",
            allowed="a server that `posttrain deploy` has told of the stages",
            remedy="run `posttrain deploy --store FOLDER`",
        ) from None
    return Started(str(run.id), run.name, page_of(run.id))


def page_of(flow_run: UUID) -> str | None:
    """The address of a run in the UI."""
    root = PREFECT_UI_URL.value()
    return f"{root}/runs/flow-run/{flow_run}" if root else None


def follow(run: Started, console: Console) -> Ended:
    """Print how the stages go on until the run has ended; whoever stops to follow does not stop the run."""
    said: set[tuple[UUID, str]] = set()
    while True:
        here, stages = insist(lambda client: _look(client, UUID(run.id)), "how the run goes on")
        for each in (*stages, here):
            state = _state_of(each).name or ""
            if (each.id, state) not in said:
                said.add((each.id, state))
                console.print(clean(f"{each.name}: {state.lower()}"), highlight=False, markup=False, soft_wrap=True)
        if _state_of(here).is_final():
            return _ended(_state_of(here), UUID(run.id))
        time.sleep(POLL_SECONDS)


def _state_of(run: FlowRun) -> State:
    assert run.state
    return run.state


def _look(client: SyncPrefectClient, flow_run: UUID) -> tuple[FlowRun, list[FlowRun]]:
    children = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [flow_run]}})
    stages = client.read_flow_runs(flow_run_filter=children, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    return client.read_flow_run(flow_run), stages


def _ended(state: State, flow_run: UUID) -> Ended:
    code = 0 if state.is_completed() else EXIT_CODES.get(state.name or "", 1)
    wanted = ArtifactFilter.model_validate({"flow_run_id": {"any_": [flow_run]}, "key": {"any_": [RUN]}})
    found = insist(lambda client: client.read_artifacts(artifact_filter=wanted), "the result of the run")
    summary = clean(str(found[-1].data)) if found else None
    return Ended(state.name or "", clean(state.message or ""), code, summary)
