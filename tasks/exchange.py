"""What a dispatched stage and the chain that waits for it tell each other, as documents in the folder of their run.

RUN/<stage>.dispatch.json    to which attempt the stage was given last, and which flow run that is
RUN/<stage>.process.json     the process that works on it, while it does
RUN/<stage>.json             how the attempt ended

Beside the folders of the runs lie `<flow run>.process.json`, the process of a chain, and `<flow run>.start.process.json`, the
same process or that of a stage from its start on, before it knows what it is to do.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from posttrain.runtime import redaction
from posttrain.runtime.remote import documents
from schemas.deployed import Dispatched, StageOutcome
from schemas.errors import GateRefused, Refusal
from schemas.results import StageReport
from tasks.open_runs import run_folder

Document = TypeVar("Document", bound=BaseModel)
CHAIN = "post-training"
"""What the process of the chain is called among those of its stages."""
STARTED = "started"
"""What a process is called that has not been told what to do."""


class StageFailed(Exception):
    """A stage ended on its work pool with an error that is no refusal; it has the kind and the message of that error."""


class Exchange:
    """The files of one stage of one run."""

    def __init__(self, root: Path, run_id: str, stage: str) -> None:
        self.folder, self.stage = run_folder(root, run_id, "run_id"), stage
        self.process = self.folder / f"{stage}.process.json"

    def dispatched(self) -> Dispatched | None:
        """The last attempt, or None before the first."""
        return _read(self.folder / f"{self.stage}.dispatch.json", Dispatched)

    def note_dispatch(self, dispatched: Dispatched) -> None:
        """Say which attempt is the last one; how the one before it ended is forgotten."""
        documents.write(self.folder / f"{self.stage}.dispatch.json", dispatched.model_dump_json())
        if (outcome := self._last()) and outcome.attempt != dispatched.attempt:
            documents.remove(self._outcome)

    def outcome(self, attempt: int) -> StageOutcome | None:
        """How an attempt ended, or None while it has not."""
        found = self._last()
        return found if found and found.attempt == attempt else None

    def end(self, outcome: StageOutcome) -> None:
        """Say how an attempt ended."""
        documents.write(self._outcome, outcome.model_dump_json(indent=1))

    @property
    def _outcome(self) -> Path:
        return self.folder / f"{self.stage}.json"

    def _last(self) -> StageOutcome | None:
        return _read(self._outcome, StageOutcome)


def chain_note(root: Path, flow_run: str | None) -> Path:
    """Where the process of a chain keeps its note."""
    return root / "runs" / f"{flow_run}.process.json"


def start_note(root: Path, flow_run: str) -> Path:
    """Where a process keeps a note from its start on."""
    return root / "runs" / f"{flow_run}.start.process.json"


def outcome_of(error: Exception, attempt: int) -> StageOutcome:
    """An error as others may read it."""
    match error:
        case Refusal():
            return StageOutcome(attempt=attempt, kind="refused", refusal=error.parts)
        case GateRefused():
            return StageOutcome(attempt=attempt, kind="gate", message=str(error))
    said = "".join(traceback.format_exception_only(redaction.without_secrets(error))).strip()
    return StageOutcome(attempt=attempt, kind="failed", message=said)


def opened(outcome: StageOutcome) -> StageReport:
    """The report of a finished stage.

    Raises:
        Refusal, GateRefused, StageFailed: what the stage raised where it ran.
    """
    match outcome.kind:
        case "finished":
            assert outcome.report
            return outcome.report
        case "refused":
            raise Refusal(**(outcome.refusal or {}))
        case "gate":
            raise GateRefused(outcome.message)
    raise StageFailed(outcome.message)


def _read(path: Path, kind: type[Document]) -> Document | None:
    """The document at a place, or None where there is none that can be read."""
    found = documents.read(path)
    try:
        return kind.model_validate_json(found) if found else None
    except ValueError:
        return None
