"""The chain behind a model: from a registered version or a run back to rows, rejected rows and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.runtime.store import read_result
from schemas.errors import Refusal
from schemas.recipe import STAGES
from schemas.results import StageResult
from tasks.registry import version_behind
from tasks.tracking import own_tracking

REGISTERED = "models:/"


def lineage_of(model: str, root: Path, tracking: str | None) -> dict[str, Any]:
    """Every stage behind a model, in the order of the chain.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the id of a run in the store.
        root: the store.
        tracking: MLflow tracking URI; None is the SQLite file of the store.

    Raises:
        Refusal: when the model or run is unknown, or its store is not here.
    """
    uri = tracking or own_tracking(root)
    if model.startswith(REGISTERED):
        tags = dict(version_behind(model, uri, root, "MODEL").tags)
        last, head = root / _place(tags), {"model": model, "tags": tags}
    else:
        report = root / "runs" / model / "result.json"
        if not report.exists():
            raise Refusal("MODEL", model, "models:/NAME@ALIAS, models:/NAME/VERSION or a run id of this store", "check --store")
        stages = json.loads(report.read_text())["stages"]
        last, head = root / stages[-1]["name"] / stages[-1]["key"], {"run": model}
    return {**head, "stages": [_described(*each) for each in _walk(last, root, uri)]}


def _walk(last: Path, root: Path, tracking: str) -> list[tuple[StageResult, Path]]:
    """The results behind a folder with the root of their store, inputs before their consumers, each once."""
    found: dict[str, tuple[StageResult, Path]] = {}

    def visit(place: Path, root: Path) -> None:
        result = read_result(place)
        if result is None:
            raise Refusal("--store", f"no finished result in {place}", "the store that made this model", "give its --store")
        for origin in result.inputs:
            stage = origin.name.partition(".")[0]
            if stage in STAGES and origin.location not in found:
                visit(root / stage / origin.location, root)
            elif origin.location.startswith(REGISTERED):
                visit(*_registered(origin.location, root, tracking))
        found[result.key] = result, root

    visit(last, root)
    return list(found.values())


def _registered(uri: str, root: Path, tracking: str) -> tuple[Path, Path]:
    """The register stage behind a version, and the root of its store: this one, or the one that the version names."""
    tags = version_behind(uri, tracking, root, "MODEL").tags
    place = _place(tags)
    home = root if (root / place).is_dir() else Path(tags["posttrain.store"])
    return home / place, home


def _place(tags: dict[str, str]) -> Path:
    """The folder in a store of the stage that made a version: `register`, or for a reward model `reward`."""
    return Path(tags.get("posttrain.stage", "register")) / tags["posttrain.key"]


def _described(result: StageResult, root: Path) -> dict[str, Any]:
    rejected = [f"{root / result.stage / result.key / name}.parquet" for name in ("rejected", "quarantine")]
    return {
        "stage": result.stage,
        "key": result.key,
        "digest": result.digest,
        "inputs": [origin.model_dump() for origin in result.inputs],
        "fields": result.fields,
        "left_out_rows": [path for path in rejected if Path(path).exists()],
        "environment": result.environment,
    }
