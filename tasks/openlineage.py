"""The lineage of a model as OpenLineage events, which Marquez, DataHub and others read: https://openlineage.io/spec/2-0-2.

One COMPLETE event for each stage. A run's id follows from the key of its result, so that the same result is the same run
everywhere; data sets carry their digest as version, and an output has the name that later stages give to their input.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.runtime.partial import RESULT
from posttrain.runtime.store import is_key
from schemas.results import Origin, StageResult
from schemas.secrets import without_credentials

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
VERSIONED = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
PRODUCER = "urn:posttrain"
NAMESPACE = "posttrain"
IDS = uuid.UUID("8d4c8f3e-3c0b-5a0e-9a4e-2f0a6f6f2b11")  # of these ids alone


def events(walked: Sequence[tuple[StageResult, Path]]) -> list[dict[str, Any]]:
    """One event for each result, with the root of its store."""
    return [_event(result, root / result.stage / result.key / RESULT) for result, root in walked]


def _event(result: StageResult, file: Path) -> dict[str, Any]:
    ended = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    outputs = [output for output in result.outputs.values() if output in result.files or _is_folder(result, output)]
    return {
        "eventType": "COMPLETE",
        "eventTime": ended.isoformat(),
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {"runId": str(uuid.uuid5(IDS, result.key))},
        "job": {"namespace": NAMESPACE, "name": result.stage},
        "inputs": [_input(origin) for origin in result.inputs],
        "outputs": [_dataset(f"{result.stage}/{result.key}", result.digest)] if outputs else [],
    }


def _is_folder(result: StageResult, output: str) -> bool:
    return any(path.startswith(f"{output}/") for path in result.files)


def _input(origin: Origin) -> dict[str, Any]:
    """A source by its address; what a stage put out by stage and key, which is the name of its output."""
    stage, _, output = origin.name.partition(".")
    if is_key(origin.location):
        return _dataset(f"{stage}/{origin.location}", origin.digest, output)
    return _dataset(f"{origin.name} {without_credentials(origin.location)}", origin.digest)


def _dataset(name: str, digest: str, part: str = "") -> dict[str, Any]:
    version = {"_producer": PRODUCER, "_schemaURL": VERSIONED, "datasetVersion": f"{part}:{digest}" if part else digest}
    return {"namespace": NAMESPACE, "name": name, "facets": {"version": version}}
