"""What the processes of a deployed run tell each other through the store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Frozen
from schemas.results import StageReport, Text


class ProcessNote(Frozen):
    """Which process works, in a file that it keeps fresh."""

    what: str
    """A stage, `post-training` for the process that runs the chain, or `started` for one that has not been told what to do."""
    flow_run: str | None
    """Id of its flow run in Prefect; null outside of one."""
    host: str
    """Name of the machine or container, for people."""
    machine: str
    """The boot and the process namespace in which `pid` counts; a machine has another one after a restart."""
    pid: int
    """Process id."""
    started: str
    """When the process began, as its system counts: a later process may have the same id."""
    beat: int = 0
    """Goes up while the process lives."""


class Dispatched(Frozen):
    """The last time that a stage of a run was given to a work pool."""

    attempt: Annotated[int, Field(ge=1)]
    """Counts from 1 within a run."""
    flow_run: str | None = None
    """Id of its flow run in Prefect; null until Prefect has answered."""


class StageOutcome(Frozen):
    """How a stage ended on a work pool. Whoever dispatched it reads it from the store, not from Prefect."""

    attempt: Annotated[int, Field(ge=1)]
    """The attempt that ended so."""
    kind: Literal["finished", "refused", "gate", "failed"]
    """`refused`: by a refusal. `gate`: the candidate may not be promoted. `failed`: by any other error."""
    report: StageReport | None = None
    """Of a stage that finished."""
    refusal: dict[str, Text] | None = None
    """The four parts of a refusal."""
    message: Text = ""
    """What a gate found, or the kind and the message of an error."""
