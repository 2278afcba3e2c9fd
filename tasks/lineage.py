"""The chain behind a model: from a registered version or a run back to rows, rejected rows and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.store import read_result
from schemas.errors import Refusal
from schemas.recipe import STAGES
from schemas.results import StageResult
from schemas.secrets import without_credentials
from tasks.tracking import connect


def lineage_of(model: str, root: Path, tracking: str | None) -> dict[str, Any]:
    """Every stage behind a model, in the order of the chain.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the id of a run in the store.
        root: the store.
        tracking: MLflow tracking URI; None is the SQLite file of the store.

    Raises:
        Refusal: when the model or run is unknown, or its store is not here.
    """
    if model.startswith("models:/"):
        tags = _version_tags(model, tracking or f"sqlite:///{root / 'tracking' / 'mlflow.db'}", root)
        last, head = root / "register" / tags["posttrain.key"], {"model": model, "tags": tags}
    else:
        report = root / "runs" / model / "result.json"
        if not report.exists():
            raise Refusal("MODEL", model, "models:/NAME@ALIAS, models:/NAME/VERSION or a run id of this store", "check --store")
        stages = json.loads(report.read_text())["stages"]
        last, head = root / stages[-1]["name"] / stages[-1]["key"], {"run": model}
    return {**head, "stages": [_described(result, root) for result in _walk(last, root)]}


def _version_tags(model: str, uri: str, root: Path) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    name, at, rest = model.removeprefix("models:/").partition("@")
    client = connect(uri, root)
    try:
        if at:
            tags = client.get_model_version_by_alias(name, rest).tags
        else:
            name, _, version = name.partition("/")
            tags = client.get_model_version(name, version).tags
    except MlflowException as error:
        raise Refusal(
            "MODEL", f"{model} ({error.message})", f"a version in {without_credentials(uri)}", "check the name, or --tracking-uri"
        ) from None
    if "posttrain.key" not in tags:
        raise Refusal(
            "MODEL", f"{model}, which another program registered", "a version that posttrain registered", "check the name"
        )
    return dict(tags)


def _walk(folder: Path, root: Path) -> list[StageResult]:
    """The results behind a folder, inputs before their consumers, each once."""
    found: dict[str, StageResult] = {}

    def visit(place: Path) -> None:
        result = read_result(place)
        if result is None:
            raise Refusal("--store", f"no finished result in {place}", "the store that made this model", "give its --store")
        for origin in result.inputs:
            stage = origin.name.partition(".")[0]
            if stage in STAGES and origin.location not in found:
                visit(root / stage / origin.location)
        found[result.key] = result

    visit(folder)
    return list(found.values())


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
