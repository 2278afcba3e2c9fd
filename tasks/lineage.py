"""The chain behind a model: from a registered version or a run back to rows, rejected rows and weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.runtime.integrity import read_result
from posttrain.runtime.store import is_key
from posttrain.runtime.trees import read_regular
from schemas.errors import Refusal
from schemas.recipe import STAGES
from schemas.results import StageResult
from tasks.lineage_proof import prove, unproven
from tasks.open_runs import RUN_ID, run_folder
from tasks.openlineage import events
from tasks.registry import version_behind
from tasks.tracking import environment_uri, own_tracking
from tasks.version_artifacts import prove_version
from tasks.version_tags import RUN, home_of, place_of

REGISTERED = "models:/"
Walked = list[tuple[StageResult, Path]]
"""Results with the roots of their stores, inputs before their consumers."""


JUDGES = ("evaluate", "benchmark")  # stages whose numbers judge a version and do not make it


def lineage_of(model: str, root: Path, tracking: str | None, verify: bool = False) -> dict[str, Any]:
    """Every stage behind a model, in the order of the chain, and those that judged it.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the id of a run in the store.
        root: the store.
        tracking: MLflow tracking URI; None is the SQLite file of the store.
        verify: take the digests of all files, those that MLflow has of a version too, and compare everything with what was
            built, handed on and registered.

    Raises:
        Refusal: when the model or run is unknown, its store is not here, or something is not what it was.
    """
    walked, tags = results_behind(model, root, tracking)
    beside = _judges(model, walked, tags)
    head: dict[str, Any] = {"model": model, "tags": tags} if model.startswith(REGISTERED) else {"run": model}
    if verify:
        prove([*beside, *walked], tags)
        head |= {"verified": True, "unsealed": unproven([*beside, *walked])}
        if model.startswith(REGISTERED):
            version = version_behind(model, _uri(root, tracking), root, "MODEL")
            left = prove_version(f"{REGISTERED}{version.name}/{version.version}", version.tags)
            head |= {"not_compared": left} if left else {}
    return {**head, "stages": [_described(*each) for each in walked], "judged_by": [_described(*each) for each in beside]}


def events_of(model: str, root: Path, tracking: str | None) -> list[dict[str, Any]]:
    """The same as OpenLineage events; takes and raises what `lineage_of` does."""
    walked, tags = results_behind(model, root, tracking)
    return events([*walked, *_judges(model, walked, tags)])


def _judges(model: str, walked: Walked, tags: Mapping[str, str]) -> Walked:
    """The results of the run that judged a model; nothing where its report is gone, which is no part of the chain."""
    home = walked[-1][1]
    run_id, known = tags.get(RUN, "" if model.startswith(REGISTERED) else model), {result.key for result, _ in walked}
    try:
        places = [place for place in stages_of_run(home, run_id) if place.parts[0] in JUDGES and place.parts[1] not in known]
    except Refusal:
        return []
    return [(result, home) for place in places if (result := read_result(home / place))]


def results_behind(model: str, root: Path, tracking: str | None) -> tuple[Walked, dict[str, str]]:
    """The results of every stage behind a model, each with the root of its store, and the tags of a registered version.

    Takes and raises what `lineage_of` does.
    """
    uri = _uri(root, tracking)
    if not model.startswith(REGISTERED):
        return _walk(root / stages_of_run(root, model)[-1], root, uri), {}
    tags = dict(version_behind(model, uri, root, "MODEL").tags)
    return _walk(root / place_of(tags, "MODEL"), root, uri), tags


def _uri(root: Path, tracking: str | None) -> str:
    return tracking or environment_uri() or own_tracking(root)


def stages_of_run(root: Path, run_id: str, where: str = "MODEL") -> list[Path]:
    """The folders, relative to the store, of the stages that a run finished.

    Raises:
        Refusal: when the store has no such run, or its report was changed.
    """
    if not RUN_ID.fullmatch(run_id):
        raise _unknown(run_id, where)
    try:
        report = json.loads(read_regular(run_folder(root, run_id, where) / "result.json"))
    except FileNotFoundError:
        raise _unknown(run_id, where) from None
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(
            where=f"runs/{run_id}/result.json",
            found=f"what is no report ({error})",
            allowed="the file that the run wrote",
            remedy="name the model instead",
        ) from error
    stages = report.get("stages") if isinstance(report, dict) else None
    named = [each if isinstance(each, dict) else {} for each in stages] if isinstance(stages, list) and stages else [{}]
    return [_place(str(each.get("name")), str(each.get("key")), f"runs/{run_id}/result.json") for each in named]


def _unknown(run_id: str, where: str) -> Refusal:
    return Refusal(
        where=where,
        found=run_id[:200],
        allowed="models:/NAME@ALIAS, models:/NAME/VERSION or a run id of this store",
        remedy="check --store",
    )


def _place(stage: str, key: str, where: str) -> Path:
    """The folder of a result in its store."""
    if stage not in STAGES or not is_key(key):
        raise Refusal(
            where=where,
            found=f"a stage {stage[:40]!r} with the key {key[:40]!r}",
            allowed="a stage, and 32 hexadecimal digits",
            remedy="somebody changed it: nothing was read there",
        )
    return Path(stage) / key


def _walk(last: Path, root: Path, tracking: str) -> Walked:
    """The results behind a folder with the root of their store, inputs before their consumers, each once."""
    found: dict[str, tuple[StageResult, Path]] = {}

    def visit(place: Path, root: Path) -> None:
        result = read_result(place)
        if result is None or (result.stage, result.key) != place.parts[-2:]:
            raise Refusal(
                where="--store",
                found=f"no finished result in {place}",
                allowed="the store that made this model",
                remedy="give its --store",
            )
        for origin in result.inputs:
            stage = origin.name.partition(".")[0]
            if stage in STAGES and origin.location not in found:
                visit(root / _place(stage, origin.location, f"{place}/result.json"), root)
            elif origin.location.startswith(REGISTERED):
                visit(*_registered(origin.location, root, tracking))
        found[result.key] = result, root

    visit(last, root)
    return list(found.values())


def _registered(uri: str, root: Path, tracking: str) -> tuple[Path, Path]:
    """The register stage behind a version, and the root of its store: this one, or the one that the version names."""
    tags = version_behind(uri, tracking, root, "MODEL").tags
    place = place_of(tags, uri)
    home = root if (root / place).is_dir() else home_of(tags, uri)
    return home / place, home


def _described(result: StageResult, root: Path) -> dict[str, Any]:
    rejected = [f"{root / result.stage / result.key / name}.parquet" for name in ("rejected", "quarantine")]
    return {
        "stage": result.stage,
        "key": result.key,
        "digest": result.digest,
        "sealed": result.seal is not None,
        "inputs": [origin.model_dump() for origin in result.inputs],
        "fields": result.fields,
        "left_out_rows": [path for path in rejected if Path(path).exists()],
        "environment": result.environment,
    }
