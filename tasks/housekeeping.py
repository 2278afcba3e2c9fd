"""Which results of a store its registered models need: what `posttrain store gc` never removes."""

from __future__ import annotations

from pathlib import Path

from posttrain.runtime.inventory import Key, report_places
from schemas.errors import Refusal
from tasks.models import address_of, run_of, versions_of
from tasks.open_runs import run_folder
from tasks.tracking import DATABASE, connect, own_tracking
from tasks.version_tags import KEY, place_of


def registered_places(root: Path, tracking: str | None) -> dict[Key, list[str]]:
    """Stage and key of each result that made a registered version, or that its run has beside it, such as its evaluation.

    Args:
        root: the store.
        tracking: MLflow tracking URI; None is the environment's, else the SQLite file of the store.

    Returns:
        by result, the versions that need it, as `NAME/VERSION`; of versions that another store made, too.

    Raises:
        Refusal: when the registry does not answer, or a version's tags were changed.
    """
    uri = address_of(root, tracking)
    if uri == own_tracking(root) and not (root / DATABASE).exists():  # connecting would make one
        return {}
    found: dict[Key, list[str]] = {}
    for version in versions_of(connect(uri, root), None):
        if KEY not in version.tags:
            continue
        model = f"{version.name}/{version.version}"
        stage, key = place_of(version.tags, f"models:/{model}").parts
        for place in dict.fromkeys([(stage, key), *_of_run(root, run_of(version))]):
            found.setdefault(place, []).append(model)
    return found


def _of_run(root: Path, run_id: str) -> list[Key]:
    """Results of the run that registered a version; none where the run is not in this store."""
    try:
        return report_places(run_folder(root, run_id, "run") / "result.json")
    except (OSError, ValueError, RecursionError, Refusal):
        return []
