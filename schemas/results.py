"""What one stage hands to the next, and what a whole run prints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from schemas.base import Frozen
from schemas.secrets import without_credentials

Metrics = dict[str, float]
Text = Annotated[str, AfterValidator(without_credentials)]
"""What others wrote or raised: no secret reaches a result."""


class FileEntry(Frozen):
    """One file of a finished stage."""

    size: int
    """Bytes."""
    sha256: str
    """Digest of the content."""


class Origin(Frozen):
    """One input of a stage, by content."""

    name: str
    """Upstream stage, or the recipe field of a source (`data.corpus`)."""
    digest: str
    """SHA-256 of the content."""
    location: Text
    """Where it was read: the upstream key or the source as written in the recipe."""


class StageResult(Frozen):
    """The content of `result.json`: written last, so its presence means that the stage finished."""

    stage: str
    """Name of the stage."""
    key: str
    """SHA-256 of stage name and version, the recipe fields it read, and the digests of its inputs."""
    seconds: float
    """Wall time of the build, resumed attempts not included."""
    fields: dict[str, Any]
    """The recipe fields that the stage read."""
    inputs: tuple[Origin, ...] = ()
    """What it was made from."""
    metrics: Metrics = Field(default_factory=dict)
    """Numbers to log."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """Named outputs: paths relative to the stage's folder, or identifiers outside the store (`model_uri`)."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    """Manifest: every file of the stage by relative path."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Versions and git commit that built it."""
    seal: str | None = None
    """SHA-256 of all other fields, numbers included; null in a result that an older version wrote."""

    @property
    def computed_seal(self) -> str:
        """What `seal` must be."""
        document = self.model_dump(mode="json", exclude={"seal"})
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 over the files of the named outputs: what a consumer reads, but not logs such as curves."""
        manifest = {path: entry.sha256 for path, entry in sorted(self.files.items()) if self._is_output(path)}
        return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()

    def _is_output(self, path: str) -> bool:
        return any(path == output or path.startswith(f"{output}/") for output in self.outputs.values())


class StageReport(Frozen):
    """One stage as a run saw it."""

    name: str
    """Stage."""
    key: str
    """Its store key."""
    reused: bool
    """Whether an earlier result was taken."""
    seconds: float
    """Wall time in this run."""
    metrics: Metrics
    """Its numbers."""
    outputs: dict[str, str]
    """Its outputs as absolute paths or identifiers."""


class GateReport(Frozen):
    """One gate and what was measured."""

    name: str
    """Metric."""
    value: float
    """Measured value."""
    interval: tuple[float, float] | None
    """95% interval; null where the metric has none."""
    limit: dict[str, float]
    """Limits of the recipe."""
    passed: bool
    """Whether every limit holds."""


class ModelReport(Frozen):
    """The registered version."""

    name: str
    """Registered model."""
    version: str
    """Version number."""
    alias: str | None
    """Alias that points at it after this run."""
    uri: str
    """`models:/NAME@ALIAS`, or `models:/NAME/VERSION` without an alias."""
    tracking_uri: Text
    """MLflow tracking URI under which the model URI resolves."""


class TemplateReport(Frozen):
    """The chat template that the models of a run are saved with."""

    origin: str
    """`the tokenizer's own`, `default`, the name of another built-in template, or `file`."""
    sha256: str
    """Digest of the text in `chat_template.jinja`."""


class Failure(Frozen):
    """What ended a run before its last stage was finished."""

    stage: str
    """The stage that failed; `report` where all were finished and their report could not be written."""
    message: Text
    """What a refusal found and where, or the kind and the first line of another error."""
    remedy: Text
    """What to do now."""


class RunReport(Frozen):
    """What `posttrain run --json` prints."""

    run_id: str
    """Identifier of this run; also the MLflow parent run."""
    status: Literal["finished", "failed"] = "finished"
    """`failed`: a stage did not finish, and the others are reported. A gate that refuses a candidate is no failure."""
    error: Failure | None = None
    """Null unless the run failed."""
    seconds: float
    """Wall time."""
    stages: tuple[StageReport, ...]
    """Those that finished, in order."""
    gates: tuple[GateReport, ...]
    """Empty where the recipe sets none, or nothing was evaluated."""
    model: ModelReport | None
    """Null where nothing was registered."""
    report: Path
    """Path of `report.html`."""
    promotion: Text
    """One sentence: promoted, or refused and by how much; or where the run failed."""
    chat_template: TemplateReport | None = None
    """Null where the tokenizer could not be read, or in a report of an older version."""
    notices: tuple[Text, ...] = ()
    """What a person should know though nothing was refused, a sentence each."""
    warnings: tuple[Text, ...] = ()
    """What stopped nothing and should be looked at: a held-out loss that rose, a toy judge."""
