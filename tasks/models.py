"""Registered models as a person asks for them: a list, a promotion by hand, a rollback, two side by side."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.evaluation.side_by_side import Side, side_by_side
from posttrain.runtime.integrity import read_result
from schemas.errors import Refusal
from tasks import champion, turns
from tasks.champion import Promotion
from tasks.lineage import REGISTERED, results_behind, stages_of_run
from tasks.registry import version_behind
from tasks.tracking import DATABASE, connect, environment_uri, own_tracking
from tasks.version_tags import KEY, RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def registered(root: Path, tracking: str | None, name: str | None = None) -> list[dict[str, Any]]:
    """Every version that posttrain registered, the newest first, and how the champion came to be it.

    Raises:
        Refusal: when no model of that name is registered.
    """
    client = _client(root, tracking)
    versions = [each for each in versions_of(client, name) if KEY in each.tags]
    if name and not versions:
        raise _unknown(name)
    aliases = {each.name: dict(each.aliases) for each in _pages(client.search_registered_models)}
    moves = {each: turns.history(client, each) for each in dict.fromkeys(version.name for version in versions)}
    return [_described(version, aliases.get(version.name, {}), moves[version.name]) for version in versions]


def promote(uri: str, why: str, root: Path, tracking: str | None) -> Promotion:
    """Make a registered version champion by hand.

    Raises:
        Refusal: when there is no such version, or another run moved the alias at the same moment.
    """
    version = version_behind(uri, address_of(root, tracking), root, "MODEL")
    return champion.promote_by_hand(_client(root, tracking), version, why)


def roll_back(name: str, why: str, root: Path, tracking: str | None) -> Promotion:
    """Make the version champion again that the current champion replaced.

    Raises:
        Refusal: when there is none.
    """
    client = _client(root, tracking)
    if not versions_of(client, name):
        raise _unknown(name)
    return champion.roll_back(client, name, why)


def compare(a: str, b: str, root: Path, tracking: str | None) -> dict[str, Any]:
    """Two registered versions or runs side by side.

    Raises:
        Refusal: when one is unknown, or was not evaluated.
    """
    return side_by_side(_side(a, root, tracking, "A"), _side(b, root, tracking, "B"))


def _side(model: str, root: Path, tracking: str | None, where: str) -> Side:
    """A model with the results behind it. Its evaluation is beside the chain to its weights: the run knows which it is."""
    walked, _ = results_behind(model, root, tracking)
    home, run_id = walked[-1][1], model
    if model.startswith(REGISTERED):
        run_id = run_of(version_behind(model, address_of(root, tracking), root, where))
    place = next((each for each in stages_of_run(home, run_id, where) if each.parts[0] == "evaluate"), None)
    evaluated = read_result(home / place) if place else None
    if place is None or evaluated is None:
        raise Refusal(
            where=where,
            found=f"{model}, whose run has no finished stage evaluate",
            allowed="a version or run that was evaluated",
            remedy="repeat its run, which goes on from where it ended",
        )
    return Side(model, home / place, (*(each for each, _ in walked if each.key != evaluated.key), evaluated))


def address_of(root: Path, tracking: str | None) -> str:
    """What was named, else the environment's server, else the SQLite file of the store."""
    return tracking or environment_uri() or own_tracking(root)


def _client(root: Path, tracking: str | None) -> MlflowClient:
    if address_of(root, tracking) == own_tracking(root) and not (root / DATABASE).exists():  # connecting would make one
        raise Refusal(
            where="--store",
            found=f"{root}, in which nothing was registered",
            allowed="the store of a finished run",
            remedy="check --store, or name a tracking server by --tracking-uri",
        )
    return connect(address_of(root, tracking), root)


def versions_of(client: MlflowClient, name: str | None) -> list[ModelVersion]:
    found = [each for each in _pages(client.search_model_versions) if name in (None, each.name)]
    return sorted(found, key=lambda version: (version.name, -int(version.version)))


def run_of(version: ModelVersion) -> str:
    """The run in the store that registered a version; MLflow's run has another id where MLflow was away when it began."""
    return str(version.tags.get(RUN, version.run_id))


def _pages(search: Any) -> list[Any]:
    found, token = [], None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _described(version: ModelVersion, aliases: dict[str, str], moves: list[turns.Turn]) -> dict[str, Any]:
    number = str(version.version)
    mine = [move for move in moves if move.version == number]
    gates = {name.removeprefix("gate."): value for name, value in version.tags.items() if name.startswith("gate.")}
    return {
        "model": f"models:/{version.name}/{number}",
        "aliases": sorted(alias for alias, at in aliases.items() if str(at) == number),
        "recipe": version.tags.get("recipe", ""),
        "method": version.tags.get("method", ""),
        "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "gates": gates,
        "run": run_of(version),
        "moves": [{"turn": move.number, "replaced": move.before or None, "because": move.why, "by": move.by} for move in mine],
    }


def _unknown(name: str) -> Refusal:
    return Refusal(
        where="NAME",
        found=f"{name[:200]}, of which posttrain registered no version",
        allowed="a name that `posttrain models` lists",
        remedy="check the name, --store or --tracking-uri",
    )
